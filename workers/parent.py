"""Runs one program and keeps it running, where it would be process 1 of a container or a service of systemd.

    python -m workers.parent --part worker -- celery --app=workers.app worker ...

The program is started again when it ends or shows no sign of life (`workers.sign_of_life`), and gets the signals that
this process gets. One that ends before it has shown a sign is misconfigured, as a rule: this process then ends as it did,
and whoever started it sees that.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from workers.kept import Kept
from workers.proc import POLL_S
from workers.processes import Child, Part
from workers.sign_of_life import SILENT_S

#: A task may take 12 s; a worker that stops finishes what it has begun. Less than a container is given.
STOP_WITHIN_S: Final = 25.0
_HANDED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def keep(part: Part) -> int:
    """Run a program until this process is told to stop; the exit status that it ends with."""
    told: list[signal.Signals] = []
    for number in _HANDED_ON:
        signal.signal(number, lambda number, _: told.append(signal.Signals(number)))
    child = Child(part)
    while not (told or child.is_silent() or child.has_shown_life):
        if child.ending:
            return _stop(child, told)
        time.sleep(POLL_S)
    kept = Kept(child)
    while not told:
        kept.attend(_log)
        time.sleep(POLL_S)
    return _stop(kept.child, told) if kept.child else 0


def _stop(child: Child, told: list[signal.Signals]) -> int:
    """Hand on what this process is told, until the program ends or its time is over."""
    deadline = time.monotonic() + child.part.grace_s
    while child.is_alive() and time.monotonic() < deadline:
        while told:
            child.send(told.pop(0))
        time.sleep(POLL_S)
    child.kill()
    return child.exit_status


def _log(event: str) -> None:
    """Write a line like those of the program, which stand beside it."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = {"event": event, "level": "warning", "logger": "workers.parent", "timestamp": now}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    """Do as the command line says; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.parent",
        description="Run a program, and replace it when it ends or falls silent.",
    )
    parser.add_argument("--part", required=True, help="what it is called in logs, metrics and on the board")
    parser.add_argument(
        "--silent-s", type=float, default=SILENT_S, help="how long it may be silent, in seconds"
    )
    parser.add_argument("program", nargs="+", help="the program and its arguments, after --")
    asked = parser.parse_args(arguments)
    part = Part(
        name=asked.part,
        argv=asked.program,
        log=None,
        shows_life=True,
        silent_s=asked.silent_s,
        grace_s=STOP_WITHIN_S,
    )
    return keep(part)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
