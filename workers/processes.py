"""One program that we run: how it is started, known to be ready, and stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Protocol

from workers import sign_of_life
from workers.proc import POLL_S, descendants, kill_group
from workers.sign_of_life import Pulse, Replaced

LAUNCH: Final = Path(__file__).with_name("launch.py")
LOG_BYTES_MAX: Final = 5_000_000
LOG_TAIL_LINES: Final = 20


class PartFailedError(Exception):
    """A program did not start, or did not end well."""


@dataclass(frozen=True, kw_only=True)
class User:
    """The account that a program runs as, and the capability it keeps there (0: none), capabilities(7)."""

    uid: int
    gid: int
    capability: int = 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """A program of the system, and everything its supervisor has to know about it."""

    name: str
    argv: Sequence[str]
    #: Where it writes, standard output and error. None: where whoever runs the supervisor writes.
    log: Path | None
    #: Added to the supervisor's own environment.
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    #: None: whoever runs the supervisor.
    user: User | None = None
    #: How far it stands back for others where processors are short, setpriority(2).
    niceness: int = 0
    #: Runs before each start: writes configuration, removes what a crash left.
    prepare: Callable[[], None] = lambda: None
    #: Asked again and again after a start until it says yes.
    is_ready: Callable[[], bool] = lambda: True
    ready_within_s: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    #: How long a clean stop may take before SIGKILL.
    grace_s: float = 10.0
    #: What the program gets when the supervisor dies without a word.
    orphan_signal: signal.Signals = signal.SIGTERM
    #: Whether it shows signs of life (`workers.sign_of_life`), and for how long it may be silent once it has begun.
    shows_life: bool = False
    silent_s: float = sign_of_life.SILENT_S

    @property
    def kind(self) -> str:
        """Its name without the number that tells it from others of its kind."""
        return self.name.rstrip("0123456789")


class Process(Protocol):
    """What is asked of a running process: as `subprocess.Popen` has it."""

    pid: int
    returncode: int

    def poll(self) -> int | None:
        """How it ended, None while it runs."""

    def wait(self) -> int:
        """Wait for its end, and tell how it ended."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal, where it still runs."""


def spawn(
    part: Part, env: Mapping[str, str], log: IO[bytes] | None, keep_open: Sequence[int]
) -> "subprocess.Popen[bytes]":
    """Run a part's program in a session of its own. `keep_open`: the file descriptors that it gets."""
    return subprocess.Popen(  # noqa: S603 - the program is the caller's choice
        _launched(part.argv, part.user, part.orphan_signal, part.niceness),
        env=env,
        cwd=part.cwd,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT if log else None,
        start_new_session=True,
        pass_fds=keep_open,
    )


class Child:
    """A part that was started, in a session of its own: the terminal's Ctrl-C does not reach it.

    It ends when the *thread* that started it ends, prctl(2): start parts from the main thread.
    """

    def __init__(
        self,
        part: Part,
        replaced: Replaced | None = None,
        *,
        run: Callable[[Part, Mapping[str, str], IO[bytes] | None, Sequence[int]], Process] = spawn,
    ) -> None:
        self.part = part
        part.prepare()
        with _opened(part.log) as log:
            self._pulse = _pulse(part) if part.shows_life else None
            env = {**os.environ, **part.env, **self._told(replaced)}
            self._process = run(part, env, log, [self._pulse.write_end] if self._pulse else [])
        if self._pulse:
            self._pulse.started()

    def _told(self, replaced: Replaced | None) -> Mapping[str, str]:
        return sign_of_life.environment(self._pulse.write_end, replaced) if self._pulse else {}

    @property
    def pid(self) -> int:
        """The main process; also the id of its process group."""
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """The main process, then those below it."""
        return self.pids_among(None)

    def pids_among(self, children: Mapping[int, Sequence[int]] | None) -> list[int]:
        """`pids`, out of what `children_by_parent` has found."""
        return [self.pid, *descendants(self.pid, children)]

    @property
    def ending(self) -> str | None:
        """How the main process ended, or None while it runs."""
        return None if self.is_alive() else _ending(self._process.returncode)

    @property
    def exit_status(self) -> int:
        """As a shell reports how the main process ended: 128 and the number of the signal, where one ended it."""
        code = self._process.wait()
        return 128 - code if code < 0 else code

    def is_alive(self) -> bool:
        """Whether the main process runs."""
        return self._process.poll() is None

    @property
    def has_shown_life(self) -> bool:
        """Whether there was a sign of life by the last look."""
        return self._pulse is not None and self._pulse.has_started

    @property
    def silence_s(self) -> float:
        """For how long it has shown no sign of life."""
        return self._pulse.silence_s if self._pulse else 0.0

    def is_silent(self) -> bool:
        """Whether it has shown no sign of life for longer than it may. To be asked several times a second."""
        return self._pulse is not None and self._pulse.is_silent()

    def wait_ready(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until the part is ready, calling `meanwhile` again and again.

        Raises PartFailedError when the part ends instead, or takes too long.
        """
        deadline = time.monotonic() + self.part.ready_within_s
        while not self.part.is_ready():
            meanwhile()
            if not self.is_alive():
                raise self.failure(f"ended with {self.ending}")
            if time.monotonic() > deadline:
                raise self.failure(f"was not ready within {self.part.ready_within_s:g} s")
            time.sleep(POLL_S)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the main process, where it still runs."""
        if self.is_alive():
            self._process.send_signal(number)

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Stop it cleanly, within its grace or until `hurry`; then by force. True if no force was needed."""
        self.send(self.part.stop_signal)
        deadline = time.monotonic() + self.part.grace_s
        while self.is_alive() and time.monotonic() < deadline and not hurry():
            time.sleep(POLL_S)
        is_clean = not self.is_alive()
        self.kill()
        return is_clean

    def kill(self) -> None:
        """End what is left of the part, its children too, at once."""
        kill_group(self.pid)
        self._process.wait()
        if self._pulse:
            self._pulse.close()

    def end_silent(self) -> None:
        """End it where it is silent, its children too; before, its main process may write where it stands."""
        sign_of_life.end(self.pid)
        self.kill()

    def failure(self, what_happened: str) -> PartFailedError:
        """An error that tells it with the end of the part's log."""
        if self.part.log is None:
            return PartFailedError(f"{self.part.name} {what_happened}")
        lines = self.part.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return PartFailedError(
            "\n".join([f"{self.part.name} {what_happened}. {self.part.log} ends:", *lines])
        )


def run_to_end(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    user: User | None = None,
    cwd: Path | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> str:
    """Run a program and return what it printed. Raises PartFailedError with all it said when it fails.

    `meanwhile` is called again and again while it runs; when that raises, the program is killed.
    """
    process = subprocess.Popen(  # noqa: S603 - the program is the caller's choice
        _launched(argv, user, signal.SIGKILL),
        env=os.environ | (env or {}),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with process:
        try:
            printed, complaints = _collect(process, meanwhile)
        except BaseException:
            kill_group(process.pid)
            raise
    if process.returncode != 0:
        program = " ".join(argv)
        raise PartFailedError(f"`{program}` ended with {_ending(process.returncode)}:\n{printed}{complaints}")
    return printed


def _collect(process: subprocess.Popen[str], meanwhile: Callable[[], None]) -> tuple[str, str]:
    while True:
        try:
            return process.communicate(timeout=POLL_S)
        except subprocess.TimeoutExpired:
            meanwhile()


def _launched(
    argv: Sequence[str], user: User | None, orphan_signal: signal.Signals, niceness: int = 0
) -> list[str]:
    uid, gid, capability = (user.uid, user.gid, user.capability) if user else (0, 0, 0)
    wishes = [os.getpid(), int(orphan_signal), niceness, uid, gid, capability]
    return [sys.executable, "-I", "-S", str(LAUNCH), *map(str, wishes), *argv]


def _pulse(part: Part) -> Pulse:
    return Pulse(silent_s=part.silent_s, stop_within_s=part.grace_s)


def _opened(log: Path | None) -> AbstractContextManager[IO[bytes] | None]:
    if log is None:
        return nullcontext()
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _rotate(log)
    return log.open("ab")


def _rotate(log: Path) -> None:
    """Keep one old log, so that logs stay bounded over many starts."""
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(f"{log.name}.1"))


def _ending(return_code: int) -> str:
    return signal.Signals(-return_code).name if return_code < 0 else f"exit status {return_code}"
