"""Measures this system beside a textbook version of itself and beside Celery doing nothing, in one run.

Starts everything on free ports, in a temporary folder; nothing is left behind. Tables go to standard output, progress to
standard error, results as JSON and as plots into a folder. After each round the stores are checked: an order lost or
doubled, or a unit that does not add up, makes the round wrong, which is no result, and the exit code 1.
"""

import argparse
import fcntl
import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.benchmarks import bench, contest, plots, report, results, scenarios
from tests.benchmarks.bench import Bench

INTERRUPTED: Final = 130  # as shells report a SIGINT
#: Files that a process may have open: each waiting client is one, in the web tier and in the process that plays them.
OPEN_FILES: Final = 16_384


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. Returns the exit code: 1 where a round was wrong."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with _alone(), tempfile.TemporaryDirectory(prefix="reserva-bench-") as folder:
            return _measure(Path(folder), options)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; nothing is left running.\n")
        return INTERRUPTED


def _measure(folder: Path, options: argparse.Namespace) -> int:
    # PostgreSQL, started by root, runs as somebody who must be able to pass through.
    folder.chmod(0o711)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, most), most))
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


@contextmanager
def _alone() -> Iterator[None]:
    """Hold this machine's benchmark lock; two runs at once would measure each other."""
    path = Path(tempfile.gettempdir(), "reserva-bench.lock")
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"Another benchmark runs on this machine; waiting for its end ({path}).\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
