"""Runs a system of several programs on one machine: starts them, keeps them running, stops them.

    with Supervisor(folder, say=print, changed=publish) as system:
        system.start(database)
        system.run(["migrate"])
        system.start(web)
        system.keep()

Ctrl-C, SIGTERM or SIGHUP end it from any of these lines: the `with` block is left and every part is stopped,
the last one first. A second Ctrl-C shortens the wait. Until `keep`, a part that ends is an error; then a part that ends
or falls silent is started again, more and more slowly if that happens again and again.
"""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, Final, Self

from workers.kept import Kept
from workers.proc import POLL_S, children_by_parent, end_all, make_was_told_to_stop, marked_with
from workers.processes import Child, Part, PartFailedError, run_to_end

#: The environment variable by which processes of an earlier, killed supervisor are found again.
MARK: Final = "SUPERVISED_IN"

LOOK_EVERY_S: Final = 1.0

Pids = Mapping[str, list[int]]


class AlreadyRunningError(Exception):
    """A supervisor already works in this folder."""


class StopRequested(Exception):
    """Somebody asked the system to stop."""


class Supervisor:
    """The parts of a system, in one folder that no second supervisor may use at the same time.

    `say` gets a line about each thing that happens, `changed` the `pids` whenever they are not what they were
    and all parts are up.
    """

    def __init__(self, folder: Path, *, say: Callable[[str], None], changed: Callable[[Pids], None]) -> None:
        self._folder = folder.resolve()
        self._say = say
        self._changed = changed
        self._began = time.monotonic()
        self._kept: list[Kept] = []
        self._known_pids: Pids = {}
        self._is_complete = False
        self._next_look = 0.0
        self._stop_requests: list[signal.Signals] = []
        self._handlers: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        """Take the folder and end what a killed supervisor left there. Raises AlreadyRunningError."""
        self._lock = _locked(self._folder)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, self._on_signal)
        end_all(lambda: marked_with(MARK, str(self._folder)))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        """Stop all parts, the last one first. A wish to stop ends here; errors go on to the caller."""
        try:
            self._stop_all()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._lock.close()
        return kind is StopRequested

    def start(self, *parts: Part) -> None:
        """Start parts side by side and wait until all are ready. Raises PartFailedError, StopRequested."""
        waiting: list[Child] = []
        try:
            for part in parts:
                child = Child(replace(part, env={**part.env, MARK: str(self._folder)}))
                waiting.append(child)
            while waiting:
                waiting[0].wait_ready(meanwhile=self._attend)
                self._kept.append(Kept(waiting.pop(0)))
                self._tell(f"{self._kept[-1].part.name} is up")
        finally:
            for child in reversed(waiting):
                child.stop(hurry=self._is_in_hurry)

    def run(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> str:
        """Run a program to its end and return what it printed. Raises PartFailedError, StopRequested."""
        return run_to_end(argv, env={**env, MARK: str(self._folder)}, cwd=cwd, meanwhile=self._attend)

    def wait_until(self, is_so: Callable[[], bool], *, what: str, within_s: float) -> None:
        """Wait for something that the parts do together. Raises PartFailedError, StopRequested."""
        deadline = time.monotonic() + within_s
        while not is_so():
            self._attend()
            if time.monotonic() > deadline:
                raise PartFailedError(f"{what}: not within {within_s:g} s")
            time.sleep(POLL_S)
        self._tell(what)

    def keep(self) -> None:
        """Keep all parts running. Ends with StopRequested."""
        self._is_complete = True
        while True:
            self._attend()
            time.sleep(POLL_S)

    @property
    def pids(self) -> Pids:
        """Of each part, the main process and then those below it."""
        children = children_by_parent()
        return {kept.part.name: kept.pids_among(children) for kept in self._kept} | {
            "supervisor": [os.getpid()]
        }

    def _attend(self) -> None:
        if self._stop_requests or make_was_told_to_stop():
            raise StopRequested
        for kept in self._kept:
            if self._is_complete:
                kept.attend(self._tell)
            else:
                kept.insist()
        if (
            self._is_complete
            and time.monotonic() >= self._next_look
            and all(kept.is_ready for kept in self._kept)
        ):
            self._next_look = time.monotonic() + LOOK_EVERY_S
            self._look()

    def _look(self) -> None:
        pids = self.pids
        if pids != self._known_pids:
            self._changed(pids)
            self._known_pids = pids

    def _stop_all(self) -> None:
        while self._kept:
            kept = self._kept.pop()
            is_clean = kept.stop(hurry=self._is_in_hurry)
            self._tell(f"{kept.part.name} stopped" if is_clean else f"{kept.part.name} was ended by force")

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._stop_requests.append(signal.Signals(number))

    def _is_in_hurry(self) -> bool:
        """After a second Ctrl-C. A second SIGTERM says nothing new: `make` passes on the one it got."""
        return len(self._stop_requests) > 1 and signal.SIGINT in self._stop_requests[1:]

    def _tell(self, what_happened: str) -> None:
        try:
            self._say(f"[{time.monotonic() - self._began:6.1f} s] {what_happened}")
        except OSError:
            # Whoever was reading is gone. That must not end the system, nor keep it from being stopped.
            self._say = _silence


def _locked(folder: Path) -> IO[str]:
    """The folder's lock, which the kernel frees when we end, however we end."""
    # Others may pass through to a part's folder of their own, but not look around.
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    lock = (folder / "supervisor.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise AlreadyRunningError(f"process {owner} already runs a system in {folder}") from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _silence(_: str) -> None:
    return
