"""Injects faults into a running system while clients order, and checks that every promise is kept.

Starts everything on free ports, in a temporary folder; nothing is left behind. Progress goes to standard error, the report
to standard output; report, data, timeline, history and logs go into a folder. The exit code is 1 where anything
was wrong. The same seed injects the same faults in the same order.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.chaos import plots, report
from tests.chaos.faults import CATALOGUE
from tests.chaos.run import Plan, Run

INTERRUPTED: Final = 130  # as shells report a SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. Returns the exit code: 1 where anything was wrong."""
    options = _parser().parse_args(arguments)
    if options.sum:
        sys.stdout.write(report.summed([json.loads(path.read_text()) for path in options.sum]))
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    plan = Plan(
        seed=options.seed,
        seconds=options.minutes * 60,
        faults=[CATALOGUE[name] for name in options.faults],
        clients=options.clients,
        most=options.count,
        append_fsync=options.append_fsync,
    )
    again = f"python -m tests.chaos --minutes {options.minutes:g} --seed {plan.seed} --clients {plan.clients}"
    again += f" --append-fsync {plan.append_fsync}" + (f" --count {plan.most}" if plan.most else "")
    if len(plan.faults) < len(CATALOGUE):
        again += f" --faults {' '.join(options.faults)}"
    _say(f"seed {plan.seed}; the same faults in the same order again: {again}")
    try:
        with tempfile.TemporaryDirectory(prefix="reserva-chaos-") as folder:
            return _run(plan, Path(folder), options.out)
    except KeyboardInterrupt:
        _say("Stopped; nothing is left running.")
        return INTERRUPTED


def _run(plan: Plan, folder: Path, out: Path) -> int:
    # PostgreSQL, started by root, runs as somebody who must be able to pass through.
    folder.chmod(0o711)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        result = Run(plan, folder, out, _say)()
    finally:
        _keep_logs(folder, out / "logs")
    data = report.as_data(plan, result)
    (out / "results.json").write_text(json.dumps(data, indent=1))
    text = report.render(data)
    (out / "results.md").write_text(text)
    sys.stdout.write(text)
    for path in (plots.draw(data, out / "timeline.svg"), out / "history.jsonl"):
        _say(str(path))
    _say(f"{'green' if result.is_green else 'RED'} after {time.monotonic() - began:.0f} s; seed {plan.seed}")
    return 0 if result.is_green else 1


def _keep_logs(folder: Path, kept: Path) -> None:
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for log in folder.rglob("*.log*"):
        if log.is_file():
            shutil.copy(log, kept / "-".join(log.relative_to(folder).parts))


def _parser() -> argparse.ArgumentParser:
    described = "\n".join(f"  {fault.name:<26}{fault.description}" for fault in CATALOGUE.values())
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"faults:\n{described}",
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, metavar="N", help="how long faults are injected (default: 10)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=random.randrange(10**6),
        metavar="N",
        help="default: another one each time",
    )
    parser.add_argument(
        "--faults",
        nargs="+",
        metavar="NAME",
        choices=CATALOGUE,
        default=list(CATALOGUE),
        help="these kinds alone (default: all)",
    )
    parser.add_argument(
        "--count", type=int, default=0, metavar="N", help="end after so many faults (default: no limit)"
    )
    parser.add_argument("--clients", type=int, default=16, metavar="N", help="default: 16")
    parser.add_argument(
        "--sum", type=Path, nargs="+", metavar="FILE", help="only add up `results.json` of earlier runs"
    )
    parser.add_argument(
        "--append-fsync", choices=("always", "everysec"), default="always", help="Redis's (default: always)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(".chaos"), help="folder for report and history (default: .chaos)"
    )
    return parser


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # A shell's settings would lead away from what is started here.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    sys.exit(main())
