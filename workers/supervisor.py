"""Runs a system of several programs on one machine: starts them, keeps them running, stops them.

    with Supervisor(folder, say=print, changed=publish) as system:
        system.start(database)
        system.run(["migrate"])
        system.start(web)
        system.keep()

Ctrl-C, SIGTERM or SIGHUP end it from any of these lines: the `with` block is left and every part is stopped,
the last one first. A second Ctrl-C shortens the wait. Until `keep`, a part that ends is an error; then it is
started again, more and more slowly if it keeps ending.
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

from workers.proc import POLL_S, children_by_parent, end_all, make_was_told_to_stop, marked_with
from workers.processes import Child, Part, PartFailedError, run_to_end

#: The environment variable by which processes of an earlier, killed supervisor are found again.
MARK: Final = "SUPERVISED_IN"

RESTART_DELAY_S: Final = 0.2
RESTART_DELAY_MAX_S: Final = 10.0
#: A part that ran for so long has recovered: its next failure counts as the first.
STEADY_AFTER_S: Final = 30.0
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
        self._kept: list[_Kept] = []
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
                self._kept.append(_Kept(waiting.pop(0)))
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


class _Kept:
    """A part that is to run, and what is known of its present process."""

    def __init__(self, child: Child) -> None:
        self.part = child.part
        self.is_ready = True
        self._child: Child | None = child
        self._since = time.monotonic()
        self._failures = 0
        self._start_at = 0.0

    def pids_among(self, children: Mapping[int, Sequence[int]]) -> list[int]:
        """The main process, then those below it."""
        return self._child.pids_among(children) if self._child else []

    def attend(self, tell: Callable[[str], None]) -> None:
        """Take the next step, if there is one to take, towards a part that runs and is ready."""
        if self._child is None:
            if time.monotonic() >= self._start_at:
                self._restart(tell)
        elif ending := self._child.ending:
            self._bury(f"ended with {ending}", tell)
        elif not self.is_ready:
            if self.part.is_ready():
                self.is_ready = True
                tell(f"{self.part.name} is up again")
            elif time.monotonic() - self._since > self.part.ready_within_s:
                self._bury("did not get ready", tell)

    def insist(self) -> None:
        """Raise PartFailedError if it does not run."""
        if self._child and self._child.ending:
            raise self._child.failure(f"ended with {self._child.ending}")

    def stop(self, hurry: Callable[[], bool]) -> bool:
        """Stop it. True if no force was needed."""
        return self._child.stop(hurry) if self._child else True

    def _restart(self, tell: Callable[[str], None]) -> None:
        self._since = time.monotonic()
        try:
            self._child = Child(self.part)
        except (OSError, PartFailedError) as error:
            self._bury(f"could not be started: {error}", tell)

    def _bury(self, what_happened: str, tell: Callable[[str], None]) -> None:
        if self._child:
            # The children of a killed process live on, hold its port and do its work.
            self._child.kill()
            self._child = None
        self.is_ready = False
        now = time.monotonic()
        self._failures = 1 if now - self._since > STEADY_AFTER_S else self._failures + 1
        delay_s = min(RESTART_DELAY_S * 2 ** (self._failures - 1), RESTART_DELAY_MAX_S)
        self._start_at = now + delay_s
        tell(f"{self.part.name} {what_happened}; starting it again in {delay_s:g} s")


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
