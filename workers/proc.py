"""What /proc tells about the machine's processes, proc(5). Where there is no /proc, nothing is found."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

POLL_S = 0.05


def children_by_parent() -> dict[int, list[int]]:
    """The living processes of the machine, in families."""
    children: dict[int, list[int]] = {}
    for other in _all_pids():
        if stat := _stat(other):
            state, parent = stat
            if state not in "ZX":
                children.setdefault(parent, []).append(other)
    return children


def descendants(pid: int, children: Mapping[int, Sequence[int]] | None = None) -> list[int]:
    """The living processes below this one, oldest generation first.

    `children`: what `children_by_parent` found, for those who ask about several; to look takes milliseconds.
    """
    found = children_by_parent() if children is None else children
    family = [pid]
    for member in family:
        family.extend(sorted(found.get(member, ())))
    return family[1:]


def working_in(folder: Path) -> list[int]:
    """The processes whose working directory is this folder: a database server never leaves its own."""
    wanted = os.path.realpath(folder)
    return [pid for pid in _all_pids() if _working_directory(pid) == wanted]


def marked_with(name: str, value: str) -> list[int]:
    """The processes that were started with this environment variable, this one excepted."""
    wanted = f"{name}={value}".encode()
    return [pid for pid in _all_pids() if pid != os.getpid() and wanted in _environment(pid)]


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie that waits for its parent."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def make_was_told_to_stop() -> bool:
    """Whether `make` is our parent, was sent SIGINT or SIGHUP, and now waits for us to end.

    GNU make passes on SIGTERM only; of the others it believes that the terminal has sent them to everyone. So
    after `kill -INT` of make alone, or when make was the terminal's first process, both sides would wait for
    ever. While make's handler runs, the signal it handles is blocked.
    """
    try:
        status = Path(f"/proc/{os.getppid()}/status").read_text()
    except OSError:
        return False
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    blocked = int(fields["SigBlk"], 16)
    return fields["Name"] == "make" and any(
        blocked >> number - 1 & 1 for number in (signal.SIGINT, signal.SIGHUP)
    )


def end_all(find: Callable[[], Iterable[int]], *, patience_s: float = 3.0) -> None:
    """Wait until `find` finds no process any more; what is left after `patience_s` gets SIGKILL."""
    deadline = time.monotonic() + patience_s
    while pids := [pid for pid in find() if is_running(pid)]:
        if time.monotonic() > deadline:
            for pid in pids:
                _kill(pid)
        time.sleep(POLL_S)


def kill_group(group: int) -> None:
    """SIGKILL every process of the group that is left."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _all_pids() -> list[int]:
    try:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    except FileNotFoundError:
        return []


def _stat(pid: int) -> tuple[str, int] | None:
    """State and parent. The name before them stands in brackets and may itself hold brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1])


def _working_directory(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
