"""What processes cost: CPU and memory by component, from proc(5)."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
#: Its children are the other components.
PARENT_OF_ALL: Final = "supervisor"

Pids = Mapping[str, Sequence[int]]


class Meter:
    """CPU seconds by component since it was made.

    A process counts with its children that have ended: somebody forked for a moment is not lost.
    """

    def __init__(self, pids: Callable[[], Pids]) -> None:
        self._pids = pids
        self._began = cpu_s(pids())

    def read(self) -> dict[str, float]:
        """CPU seconds of each component since then."""
        return {name: max(0.0, now - self._began.get(name, 0.0)) for name, now in cpu_s(self._pids()).items()}


def cpu_s(pids: Pids) -> dict[str, float]:
    """CPU seconds of each component so far."""
    return {
        name: sum(_ticks(pid, with_ended=name != PARENT_OF_ALL) for pid in members) * TICK_S
        for name, members in pids.items()
    }


def memory_mib(pids: Pids) -> dict[str, float]:
    """Memory of each component in MiB; a page that processes share counts once (PSS)."""
    return {name: sum(_pss_kib(pid) for pid in members) / 1024 for name, members in pids.items()}


def _ticks(pid: int, *, with_ended: bool) -> int:
    """utime and stime, then cutime and cstime: fields 14 to 17; the name before them may hold blanks and brackets."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11 : 15 if with_ended else 13]))


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
