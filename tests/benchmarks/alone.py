"""One measurement at a time on this machine, in a folder that is removed afterwards."""

import fcntl
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

INTERRUPTED: Final = 130  # as shells report a SIGINT
#: Files that a process may have open: each waiting client is one, in the web tier and in the process that plays them.
OPEN_FILES: Final = 16_384


def measured(measure: Callable[[Path], int]) -> int:
    """What `measure` returns, given a temporary folder; `INTERRUPTED` where a signal ends it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, most), most))
    try:
        with _alone(), tempfile.TemporaryDirectory(prefix="reserva-bench-") as name:
            folder = Path(name)
            folder.chmod(0o711)  # PostgreSQL, started by root, runs as a user that must pass through
            return measure(folder)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; nothing is left running.\n")
        return INTERRUPTED


@contextmanager
def _alone() -> Iterator[None]:
    """Hold this machine's benchmark lock; two runs at once would measure each other."""
    path = Path(tempfile.gettempdir(), "reserva-bench.lock")
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"Another benchmark runs on this machine; waiting for its end ({path}).\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
