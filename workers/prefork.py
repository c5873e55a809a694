"""Equal processes that serve one port: forked by one parent, started again when they end, stopped with it.

The parent has loaded everything before it forks, so that a new process is there at once and shares what it does not
change. It holds the socket, so that no connection is lost while one of them is started again.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

from workers.launch import end_with

#: A process that has ended is started again so much later.
RESPAWN_DELAY_S: Final = 0.2
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
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    crew = {_fork(partial(work, listener)) for _ in range(processes)}
    while signal.sigwait(_HEARD) not in _STOP:
        for ended, status in _ended(crew):
            sys.stderr.write(f"process {ended} ended with {_how(status)}; another one takes its place\n")
            time.sleep(RESPAWN_DELAY_S)
            crew.add(_fork(partial(work, listener)))
    listener.close()  # so that nobody listens once they have stopped to
    _tell(crew, signal.SIGTERM)
    deadline = time.monotonic() + stop_within_s
    while crew and (left_s := deadline - time.monotonic()) > 0:
        heard = signal.sigtimedwait(_HEARD, left_s)
        if heard and heard.si_signo in _STOP:
            _tell(crew, signal.SIGTERM)
        _ended(crew)
    _tell(crew, signal.SIGKILL)


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


def _ended(crew: set[int]) -> list[tuple[int, int]]:
    """Take those that have ended out of the crew: their ids and wait statuses."""
    found = [(pid, status) for pid, status in (os.waitpid(each, os.WNOHANG) for each in crew) if pid]
    crew.difference_update(pid for pid, _ in found)
    return found


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _tell(crew: set[int], number: signal.Signals) -> None:
    for pid in crew:
        os.kill(pid, number)  # its own child, which it has not waited for: the id is no one else's
