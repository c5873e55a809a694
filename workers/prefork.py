"""Equal processes that serve one port: forked by one parent, replaced when they end or fall silent, stopped with it.

The parent has loaded everything before it forks, so that a new process is there at once and shares what it does not
change. It holds the socket, so that no connection is lost while one of them is started again.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NoReturn

from workers import sign_of_life
from workers.launch import end_with
from workers.sign_of_life import Pulse, Replaced

log = logging.getLogger(__name__)

#: A process that has ended is started again so much later.
RESPAWN_DELAY_S: Final = 0.2
#: Where none has lasted longer than this, and so many have failed, none will.
START_S: Final = 10.0
FALSE_STARTS_MAX: Final = 5
#: How often the parent looks for signs of life.
LOOK_EVERY_S: Final = 0.25
_STOP: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_HEARD: Final = _STOP | {signal.SIGCHLD}


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """A socket that others may share (`SO_REUSEPORT`): new processes start while old ones still serve. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.listen(backlog)
    listener.setblocking(False)
    return listener


def serve(
    work: Callable[[socket.socket], None],
    listener: socket.socket,
    *,
    part: str,
    processes: int,
    stop_within_s: float,
    silent_s: float = sign_of_life.SILENT_S,
) -> None:
    """Run `work` in so many processes, until this one is told to stop by SIGTERM or SIGINT, and tells them by SIGTERM.

    One that shows no sign of life (`workers.sign_of_life`) for `silent_s` is killed and replaced, and so is, on stopping,
    one that has not ended within `stop_within_s`. All end with this process, however it ends. `part`: what they are called.

    Raises SystemExit where they fail as soon as they start: for as long as this process listens, clients come here, and not
    to others that share the port and would answer.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    crew = _Crew(partial(work, listener), part=part, silent_s=silent_s, stop_within_s=stop_within_s)
    crew.start(sign_of_life.replaces())
    for _ in range(processes - 1):
        crew.start()
    while crew.false_starts < FALSE_STARTS_MAX and not _is_told_to_stop(LOOK_EVERY_S):
        sign_of_life.show()
        crew.end_silent()
        crew.replace_ended()
    sign_of_life.say_goodbye()
    listener.close()  # so that nobody listens once they have stopped to
    crew.stop()
    if crew.false_starts >= FALSE_STARTS_MAX:
        raise SystemExit("no process starts")


@dataclass(kw_only=True)
class _Process:
    """One of the crew. `cause`: why it will have to be replaced."""

    pulse: Pulse
    started_at: float = field(default_factory=time.monotonic)
    cause: str = "ended"


class _Crew:
    """The processes, by their ids."""

    def __init__(self, work: Callable[[], None], *, part: str, silent_s: float, stop_within_s: float) -> None:
        self._work, self._part = work, part
        self._silent_s, self._stop_within_s = silent_s, stop_within_s
        self._processes: dict[int, _Process] = {}
        #: Processes in a row that failed soon after their start.
        self.false_starts = 0

    def start(self, replaced: Replaced | None = None) -> None:
        """Add a process."""
        pulse = Pulse(silent_s=self._silent_s, stop_within_s=self._stop_within_s)
        pid = _fork(partial(self._live, pulse.write_end, replaced))
        self._processes[pid] = _Process(pulse=pulse.started())

    def _live(self, pipe: int, replaced: Replaced | None) -> None:
        sign_of_life.use(pipe, replaced)
        self._work()

    def end_silent(self) -> None:
        """Kill those that have been silent for too long: they hold connections, and others wait for what they hold."""
        for pid, process in self._processes.items():
            if process.cause != "silent" and process.pulse.is_silent():
                log.error(
                    "process %d of %s showed no sign of life for %.0f s",
                    pid,
                    self._part,
                    process.pulse.silence_s,
                )
                process.cause = "silent"
                sign_of_life.end(pid)

    def replace_ended(self) -> None:
        """Start another process for each that has ended."""
        for pid, status in self._ended():
            ended = self._processes.pop(pid)
            ended.pulse.close()
            self._note_end(status, ended)
            log.error(
                "process %d of %s ended with %s; another one takes its place", pid, self._part, _how(status)
            )
            time.sleep(RESPAWN_DELAY_S)
            self.start(Replaced(part=self._part, cause=ended.cause))

    def _note_end(self, status: int, ended: _Process) -> None:
        oldest_at = min(each.started_at for each in [ended, *self._processes.values()])
        is_false_start = bool(os.WEXITSTATUS(status)) and time.monotonic() - oldest_at < START_S
        self.false_starts = self.false_starts + 1 if is_false_start else 0

    def stop(self) -> None:
        """Tell all to stop, again where this process is told again; kill what is left after a while."""
        self._tell(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_within_s
        while self._processes and (left_s := deadline - time.monotonic()) > 0:
            if _is_told_to_stop(left_s):
                self._tell(signal.SIGTERM)
            for pid, _ in self._ended():
                del self._processes[pid]
        self._tell(signal.SIGKILL)

    def _ended(self) -> list[tuple[int, int]]:
        """Those that have ended: their ids and wait statuses."""
        looked = (os.waitpid(pid, os.WNOHANG) for pid in self._processes)
        return [(pid, status) for pid, status in looked if pid]

    def _tell(self, number: signal.Signals) -> None:
        for pid in self._processes:
            os.kill(pid, number)  # its own child, which it has not waited for: the id is no one else's


def _is_told_to_stop(within_s: float) -> bool:
    """Wait for a signal; whether this process is to stop. A child that ended ends the wait, too."""
    heard = signal.sigtimedwait(_HEARD, within_s)
    return heard is not None and heard.si_signo in _STOP


def _fork(work: Callable[[], None]) -> int:
    """A new process that runs `work`; its id."""
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _become(work, parent)
    return child


def _become(work: Callable[[], None], parent: int) -> NoReturn:
    """What the new process does, to its end."""
    code = 1
    try:
        end_with(parent, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the process ends here, and says why
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
