"""Named places where a process may be told to die, to fail, to dawdle or to freeze.

Callers say `reach("name")` where it matters. Nothing happens there unless the environment variable `FAIL_POINTS` named a
folder when the process started: without it `reach` is an empty function (20 ns a call). With it, the file
`<folder>/<name>` arms a point; its text is one of

    kill          SIGKILL to this process
    raise         `FailPointReached` from `reach`
    delay <ms>    this thread sleeps
    stop <ms>     SIGSTOP to this process, and SIGCONT after so long

Whoever reaches the point first takes the file, by renaming it to `<name>.<pid>.<n>.hit`, and acts: one process, once. The
hit stays as evidence. Whoever arms a point moves a finished file to its place, so that nobody reads half of an action.
"""

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

VARIABLE = "FAIL_POINTS"

#: Where the points of this process are armed; None where they can't be.
FOLDER = Path(named).absolute() if (named := os.environ.get(VARIABLE)) else None


class FailPointReached(Exception):
    """A fault that somebody asked for, at the fail point of this name."""


def points_in(folder: Path) -> Callable[[str], None]:
    """A `reach` whose points are armed in this folder."""
    numbers = itertools.count(1)

    def reach_in_folder(name: str) -> None:
        hit = folder / f"{name}.{os.getpid()}.{next(numbers)}.hit"
        try:
            (folder / name).rename(hit)
        except FileNotFoundError:
            return
        _act(name, *hit.read_text().split())

    return reach_in_folder


def _act(name: str, action: str, duration_ms: str = "0") -> None:
    duration_s = int(duration_ms) / 1000
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise FailPointReached(name)
        case "delay":
            time.sleep(duration_s)
        case "stop":
            _stop(duration_s)
        case _:
            raise ValueError(f"fail point {name} is armed with {action!r}: no action")


def _stop(duration_s: float) -> None:
    """Freeze this process; one that nobody waits for, in a session of its own, lets it go on."""
    later = f"(sleep {duration_s}; kill -CONT {os.getpid()}) &"
    nowhere = subprocess.DEVNULL
    subprocess.run(  # noqa: S602 - nothing in it comes from outside
        later, shell=True, check=True, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
    )
    os.kill(os.getpid(), signal.SIGSTOP)


def _pass_by(name: str) -> None:
    """No point of this process is armed, ever."""


#: Do what this fail point is armed with. Raises `FailPointReached` where that is to raise.
reach: Callable[[str], None] = points_in(FOLDER) if FOLDER else _pass_by
