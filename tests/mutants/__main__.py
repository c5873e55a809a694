"""Takes out one guard after the other, each in a copy of the project, and runs the test that must turn red.

A table goes to standard output, progress to standard error. The exit code is 1 where a test stayed green or could not run,
where a guard no longer stands in its file in the words of the list, or nothing has such a name.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from tests.mutants.every import chosen, sample
from tests.mutants.mutant import Mutant
from tests.mutants.trial import Tried, try_out


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what the command line asks for. Returns the exit code."""
    options = _parser().parse_args(arguments)
    mutants = sample() if options.sample else chosen(options.only)
    if not mutants:
        sys.stderr.write("No mutant has such a name.\n")
        return 1
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name}\n    {mutant.file}\n    " + "\n    ".join(mutant.tests))
        return 0
    began = time.monotonic()
    tried = _try_all(mutants, options.at_once)
    print(_table(tried))
    verdicts = ", ".join(f"{times} {verdict}" for verdict, times in Counter(t.verdict for t in tried).items())
    print(f"\n{len(tried)} mutants in {time.monotonic() - began:,.0f} s: {verdicts}")
    return 0 if all(each.is_red for each in tried) else 1


def _try_all(mutants: Sequence[Mutant], at_once: int) -> list[Tried]:
    tried = []
    pool = ThreadPoolExecutor(at_once)
    try:
        trials = [pool.submit(try_out, mutant) for mutant in mutants]
        for number, trial in enumerate(as_completed(trials), start=1):
            each = trial.result()
            tried.append(each)
            told = f" ({each.why})" if each.why else ""
            progress = (
                f"[{number}/{len(mutants)}] {each.verdict}, {each.seconds:.0f} s: {each.mutant.name}{told}\n"
            )
            sys.stderr.write(progress)
    finally:
        pool.shutdown(cancel_futures=True)
    return tried


def _table(tried: Sequence[Tried]) -> str:
    worst_first = sorted(tried, key=lambda each: (each.is_red, each.mutant.file, each.mutant.name))
    rows = [
        f"| {each.mutant.name} | {each.mutant.file} | {each.verdict} | {each.seconds:.0f} |"
        for each in worst_first
    ]
    return "\n".join(["| without | in | its test is | seconds |", "| --- | --- | --- | ---: |", *rows])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help="those whose name, promise, file or test holds one",
    )
    parser.add_argument("--sample", action="store_true", help="those that `make test` tries at this commit")
    parser.add_argument("--list", action="store_true", help="name them, and try none")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="how many at a time (default: 2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
