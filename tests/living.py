"""Small programs that show signs of life until a test has them stop doing so, under each kind of parent that looks.

    python -m tests.living prefork|parent FOLDER SILENT_S [GUARD]
    python -m tests.living program FOLDER

Each process leaves a file `member.<pid>` in the folder once it lives. A file `loop` there has the process that finds it take
it, and stand in a loop without end from then on, deaf to SIGTERM. With a file `slow` there processes show signs late,
and stop late. GUARD is taken away: `look`, `forgive`.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from workers import parent, prefork, sign_of_life

#: How long a slow process needs for its first sign, and after it has said that it stops.
SLOWNESS_S = 2.0


def stop_slowly(folder: Path) -> None:
    """Say goodbye, and finish what is in hand without a sign."""
    sign_of_life.say_goodbye()
    time.sleep(SLOWNESS_S)
    (folder / f"finished.{os.getpid()}").touch()
    os._exit(0)


def live(folder: Path, name: str) -> None:
    """Show signs of life for ever, or until told to stand still."""
    is_slow = (folder / "slow").exists()
    if is_slow:
        signal.signal(signal.SIGTERM, lambda *_: stop_slowly(folder))
        time.sleep(SLOWNESS_S)
    sign_of_life.show()
    (folder / f"{name}.{os.getpid()}").write_text(str(sign_of_life.replaces()))
    while True:
        sign_of_life.show()
        try:
            (folder / "loop").rename(folder / f"looped.{os.getpid()}")
        except FileNotFoundError:
            time.sleep(0.05)
        else:
            stand_still()


def stand_still() -> None:
    """A loop that shows no sign of life, and in which SIGTERM is not heard."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass


def _without_looks() -> None:
    sign_of_life.Pulse.is_silent = lambda _pulse: False  # type: ignore[method-assign]


def _without_forgiveness() -> None:
    setattr(sign_of_life, "LOOK_MOST_S", math.inf)  # noqa: B010 - it is final


GUARDS: Mapping[str, Callable[[], None]] = {
    "": lambda: None,
    "look": _without_looks,
    "forgive": _without_forgiveness,
}


def main(kind: str, folder: str, silent_s: str = "", guard: str = "") -> int:
    """Be a family, or a program in one."""
    GUARDS[guard]()
    if kind == "program":
        live(Path(folder), "member")
    if kind == "prefork":
        prefork.serve(
            lambda _: live(Path(folder), "member"),
            prefork.listen("127.0.0.1", 0, 1),
            part="web",
            processes=2,
            stop_within_s=3,
            silent_s=float(silent_s),
        )
        return 0
    program = [sys.executable, "-m", "tests.living", "program", folder]
    return parent.main(["--part", "worker2", "--silent-s", silent_s, "--", *program])


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
