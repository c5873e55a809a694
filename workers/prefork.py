"""Equal processes that serve one port: forked by one parent, started again when they end, stopped with it.

The parent has loaded everything before it forks, so that a new process is there at once and shares what it does not
change. It holds the socket, so that no connection is lost while one of them is started again.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NoReturn

from workers.launch import end_with

#: A process that has ended is started again so much later.
RESPAWN_DELAY_S: Final = 0.2
#: Where none has lasted longer than this, and so many have failed, none will.
START_S: Final = 10.0
FALSE_STARTS_MAX: Final = 5
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
    work: Callable[[socket.socket], None], listener: socket.socket, *, processes: int, stop_within_s: float
) -> None:
    """Run `work` in so many processes, until this one is told to stop by SIGTERM or SIGINT, and tells them by SIGTERM.

    Whoever has not ended `stop_within_s` later is killed. All end with this process, however it ends.

    Raises SystemExit where they fail as soon as they start: for as long as this process listens, clients come here, and not
    to others that share the port and would answer.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    crew = {_fork(partial(work, listener)): time.monotonic() for _ in range(processes)}
    false_starts = 0
    while false_starts < FALSE_STARTS_MAX and signal.sigwait(_HEARD) not in _STOP:
        for ended, status in _ended(crew):
            lasted_s = time.monotonic() - min([crew.pop(ended), *crew.values()])
            false_starts = false_starts + 1 if os.WEXITSTATUS(status) and lasted_s < START_S else 0
            sys.stderr.write(f"process {ended} ended with {_how(status)}; another one takes its place\n")
            time.sleep(RESPAWN_DELAY_S)
            crew[_fork(partial(work, listener))] = time.monotonic()
    listener.close()  # so that nobody listens once they have stopped to
    _tell(crew, signal.SIGTERM)
    deadline = time.monotonic() + stop_within_s
    while crew and (left_s := deadline - time.monotonic()) > 0:
        heard = signal.sigtimedwait(_HEARD, left_s)
        if heard and heard.si_signo in _STOP:
            _tell(crew, signal.SIGTERM)
        for ended, _ in _ended(crew):
            del crew[ended]
    _tell(crew, signal.SIGKILL)
    if false_starts >= FALSE_STARTS_MAX:
        raise SystemExit("no process starts")


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


def _ended(crew: Iterable[int]) -> list[tuple[int, int]]:
    """Those of the crew that have ended: their ids and wait statuses."""
    return [(pid, status) for pid, status in (os.waitpid(each, os.WNOHANG) for each in crew) if pid]


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _tell(crew: Iterable[int], number: signal.Signals) -> None:
    for pid in crew:
        os.kill(pid, number)  # its own child, which it has not waited for: the id is no one else's
