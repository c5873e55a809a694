"""Signs of life: a process shows its parent that its loop runs, and the parent ends and replaces one that falls silent.

A process that has ended is noticed by the kernel's word; one whose loop stands still (a loop without end, a lock that is
never freed, SIGSTOP) would stay for ever. The sign is a byte in a pipe: it needs no Redis, no disk and no clock, and
crosses fork and exec. A program finds its end of the pipe in the environment (`SIGN_OF_LIFE`), a forked process by `use`.
"""

import faulthandler
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

#: How long a process may be silent. Signs come several times a second; no wait for a store is as long.
SILENT_S: Final = 10.0
#: How often a loop shows its sign.
SHOW_EVERY_S: Final = 1.0
#: A sign that follows another one so soon is left out.
SHOW_AGAIN_S: Final = 0.2
#: How long a process may need to its first sign: it loads all its code and reaches its stores.
START_WITHIN_S: Final = 120.0
#: Of a longer time between two looks no more than this counts as silence: the parent itself did not run, as in a suspended
#: machine, and neither did its children.
LOOK_MOST_S: Final = 0.5
#: Has a process write where it stands, also in the midst of C code. SIGABRT, made for this, would leave a core file.
TELL_WHERE: Final = signal.SIGUSR2
#: How long a silent process has to write where it stands, before it is ended.
LAST_WORDS_S: Final = 0.5

#: Environment of a program: its end of the pipe, and in whose place it is (`Replaced`).
PIPE: Final = "SIGN_OF_LIFE"
REPLACES: Final = "REPLACES"

_ALIVE: Final = b"."
_STOPPING: Final = b"!"


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """The process in whose place another one was started. `cause`: `silent` or `ended`."""

    part: str
    cause: str


class Pulse:
    """A parent's view of one process: whether it has shown a sign of life lately.

    Times are in seconds. `stop_within_s`: for how long a process that says it stops may be silent.
    """

    def __init__(self, *, silent_s: float, stop_within_s: float) -> None:
        self._silent_s, self._stop_within_s = silent_s, stop_within_s
        self._allowed_s = START_WITHIN_S
        self._looked_at = time.monotonic()
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self.write_end, False)
        #: For how long it has been silent, counting only time in which this process looked.
        self.silence_s = 0.0
        self.has_started = False
        self._is_stopping = self._is_closed = False

    def started(self) -> Self:
        """Call once the process has its own copy of the writing end."""
        os.close(self.write_end)
        return self

    def is_silent(self) -> bool:
        """Look for signs; whether there was none for longer than it may be. To be asked several times a second."""
        now = time.monotonic()
        self.silence_s += min(now - self._looked_at, LOOK_MOST_S)
        self._looked_at = now
        if signs := self._signs():
            self.silence_s, self.has_started = 0.0, True
            self._is_stopping = self._is_stopping or _STOPPING in signs
            self._allowed_s = self._stop_within_s if self._is_stopping else self._silent_s
        return self.silence_s > self._allowed_s

    def _signs(self) -> bytes:
        with suppress(BlockingIOError):
            return os.read(self._read_end, 65_536)
        return b""

    def close(self) -> None:
        """Forget the process, which has ended."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._read_end)


class _Own:
    """What this process knows of itself."""

    pipe: int | None = None
    replaces: Replaced | None = None
    shown_at = 0.0


def use(pipe: int | None, replaces: Replaced | None = None) -> None:
    """From here on this process shows its signs there, and knows in whose place it is.

    On `TELL_WHERE` it writes where each of its threads stands.
    """
    _Own.pipe, _Own.replaces, _Own.shown_at = pipe, replaces, 0.0
    if pipe is not None:
        os.set_inheritable(pipe, False)
        faulthandler.register(TELL_WHERE, all_threads=True, chain=False)


def show() -> None:
    """Show a sign of life, which only the main thread can. Free of cost, as good as; nothing where no parent looks."""
    now = time.monotonic()
    if now - _Own.shown_at > SHOW_AGAIN_S and threading.current_thread() is threading.main_thread():
        _Own.shown_at = now
        _write(_ALIVE)


def say_goodbye() -> None:
    """Say that this process stops: it finishes what it has in hand, and shows no more signs."""
    _write(_STOPPING)


def replaces() -> Replaced | None:
    """The process in whose place this one was started, if any."""
    return _Own.replaces


def _write(sign: bytes) -> None:
    if _Own.pipe is not None:
        # The pipe is full while the parent stands still, and broken once it is dead.
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(_Own.pipe, sign)


def end(pid: int) -> None:
    """End a silent process of ours that nobody has waited for yet; before, it may write where it stands."""
    os.kill(pid, TELL_WHERE)
    time.sleep(LAST_WORDS_S)
    os.kill(pid, signal.SIGKILL)


def environment(pipe: int, replaced: Replaced | None) -> dict[str, str]:
    """What a program has to find in its environment, besides the pipe among its open files."""
    return {PIPE: str(pipe), REPLACES: f"{replaced.part}:{replaced.cause}" if replaced else ""}


def _found() -> None:
    """Take over what the environment says. It is for this process alone, and not for those that it starts."""
    pipe, replaced = os.environ.pop(PIPE, ""), os.environ.pop(REPLACES, "")
    if pipe:
        part, _, cause = replaced.partition(":")
        use(int(pipe), Replaced(part=part, cause=cause) if replaced else None)


_found()
os.register_at_fork(after_in_child=lambda: use(None))
