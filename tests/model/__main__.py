"""Searches the model of the protocol (`protocol.pml`) with spin: all must hold, and each mutant must be refuted.

A table goes to standard output, progress to standard error; programs are built in a temporary folder that is removed.
The exit code is 1 where a search found something else than is expected of it or did not come to its end, and 2 where spin
or a C compiler is missing.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.model.searches import HOLDS, SEARCHES, Search
from tests.model.spin import Found, Unsearched, missing_tools, search

INSTALL = (
    "Debian and Ubuntu: apt-get install spin gcc libc6-dev. macOS: brew install spin. Else: spinroot.com"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Search what the command line asks for. Returns the exit code."""
    options = _parser().parse_args(arguments)
    if missing := missing_tools():
        sys.stderr.write(f"make model needs {' and '.join(missing)}, which this machine lacks. {INSTALL}\n")
        return 2
    chosen = [each for each in SEARCHES if each.quick or not options.quick]
    chosen = [each for each in chosen if not options.only or any(word in each.name for word in options.only)]
    if not chosen:
        sys.stderr.write("No search has such a name.\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="reserva-model-") as folder:
        surprises = _search_all(chosen, Path(folder), with_story=options.story)
    for surprise in surprises:
        sys.stderr.write(f"SURPRISE: {surprise}\n")
    return 1 if surprises else 0


def _search_all(chosen: Sequence[Search], folder: Path, *, with_story: bool) -> list[str]:
    """Print the table row by row; what was not as expected."""
    surprises = []
    print("| search | finds | states | seconds |\n| --- | --- | ---: | ---: |")
    for number, wanted in enumerate(chosen):
        sys.stderr.write(f"[{number + 1}/{len(chosen)}] {wanted.name}\n")
        try:
            found = search(wanted, folder / str(number))
        except Unsearched as cut_short:
            surprises.append(f"{wanted.name}: not searched to its end\n{cut_short}")
            continue
        print(_row(wanted, found), flush=True)
        if with_story and found.story:
            sys.stderr.write(f"{found.story}\n")
        surprises += surprise(wanted, found)
    return surprises


def surprise(wanted: Search, found: Found) -> list[str]:
    """What to say of a search that found something else than is expected; nothing where it did not."""
    if found.verdict == wanted.expected:
        return []
    return [f"{wanted.name}: {found.verdict}, not {wanted.expected}\n{found.story}"]


def _row(wanted: Search, found: Found) -> str:
    told = HOLDS if found.verdict == HOLDS else f"refuted: {found.verdict.replace('_', ' ')}"
    return f"| {wanted.name} | {told} | {found.states:,} | {found.seconds:.1f} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="searches:\n" + "\n".join(f"  {each.name}" for each in SEARCHES),
    )
    parser.add_argument("--quick", action="store_true", help="some seconds: the smallest searches alone")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="searches whose name contains a word")
    parser.add_argument("--story", action="store_true", help="tell, step by step, how each mutant fails")
    return parser


if __name__ == "__main__":
    sys.exit(main())
