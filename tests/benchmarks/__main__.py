"""Measures this system beside a textbook version of itself and beside Celery doing nothing, in one run.

Starts everything on free ports, in a temporary folder; nothing is left behind. Tables go to standard output, progress to
standard error, results as JSON and as plots into a folder. After each round the stores are checked: an order lost or
doubled, or a unit that does not add up, makes the round wrong, which is no result, and the exit code 1.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import bench, contest, plots, report, results, scenarios
from tests.benchmarks.alone import measured
from tests.benchmarks.bench import Bench


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. Returns the exit code: 1 where a round was wrong."""
    options = _parser().parse_args(arguments)
    return measured(lambda folder: _measure(folder, options))


def _measure(folder: Path, options: argparse.Namespace) -> int:
    wanted = options.only or (scenarios.QUICK if options.quick else scenarios.FULL)
    with Bench(folder, bench.QUICK if options.quick else bench.FULL) as run:
        scenarios.run(run, wanted, systems=options.systems, orders=options.orders)
    data = results.as_data(run.found, form="quick" if options.quick else "full")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(data, indent=1))
    text = report.render(data)
    (options.out / "results.md").write_text(text)
    sys.stdout.write(text)
    for path in plots.draw(data, options.out):
        sys.stderr.write(f"{path}\n")
    return 1 if data["wrong"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="scenarios:\n" + scenarios.described(),
    )
    parser.add_argument(
        "--quick", action="store_true", help="about two minutes: the main table without growth"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="SCENARIO", choices=scenarios.NAMES, help="these scenarios alone"
    )
    parser.add_argument(
        "--systems",
        nargs="+",
        metavar="SYSTEM",
        choices=contest.SYSTEMS,
        default=contest.SYSTEMS,
        help=f"of {', '.join(map(repr, contest.SYSTEMS))} these alone, side by side (default: all)",
    )
    parser.add_argument(
        "--orders",
        type=_file,
        default=os.environ.get("ORDERS") or None,
        metavar="FILE",
        help="a real order history in the layout of UCI's Online Retail, .csv or .csv.gz (default: the variable ORDERS)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(".bench"), help="folder for JSON and plots (default: .bench)"
    )
    return parser


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return path


if __name__ == "__main__":
    sys.exit(main())
