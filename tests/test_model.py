"""The model of the protocol: it speaks of the code that is there, knows its mutants, and a search holds it to both."""

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.model.__main__ import surprise
from tests.model.searches import HOLDS, NEVER_RESTS, PROTOCOL, SEARCHES
from tests.model.spin import Found, Unsearched, states, story, verdict

ROOT = Path(__file__).parent.parent

#: Pieces of the model that stand for no code: what happens to it, who watches, locks as this system does not take them, and
#: the model's own accounts.
NO_CODE = {
    *("World", "run_out", "books_go_back", "Holder", "Watch", "end"),
    *("wait_for_lock", "accept_both", "start", "forget"),
}

HELD = "State-vector 116 byte, depth reached 202, errors: 0\n  3450505 states, stored\n"
FAILED = "pan:1: assertion violated (38==0) (at depth 53)\n\terrors: 1\n   60747 states, stored\n"


def note() -> str:
    """Note [Model] of ARCHITECTURE.md."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    return text.split("### Note [Model]")[1].split("\n## ")[0].split("\n### ")[0]


def cells(heading: str) -> list[list[str]]:
    """The rows of the note's table that begins with this heading, as cells."""
    table = note().split(f"| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in table]


def pieces() -> set[str]:
    """Scripts, processes and places of the model."""
    found = re.findall(
        r"^(?:inline (\w+)|(?:active )?proctype (\w+)|(\w+):(?!:))", PROTOCOL.read_text(), re.MULTILINE
    )
    return {name for names in found for name in names if name}


def exists(place: str) -> bool:
    """Whether a file, or a name in a module, is there."""
    if "/" in place:
        return (ROOT / place).is_file()
    module, name = place.rsplit(".", 1)
    return hasattr(import_module(module), name)


def run(*arguments: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
    """`python -m tests.model`."""
    return subprocess.run(
        [sys.executable, "-m", "tests.model", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": path} if path is not None else None,
        timeout=120,
    )


def test_each_piece_of_the_model_is_mapped_to_code_and_to_none_that_is_gone() -> None:
    rows = cells("in the model")
    mapped = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    places = {place for row in rows for place in re.findall(r"`([^`]+)`", row[1])}

    assert mapped == pieces() - NO_CODE
    assert {place for place in places if not exists(place)} == set()


def test_each_script_that_orders_meet_is_in_the_map() -> None:
    scripts = {f"shop/lua/{path.name}" for path in (ROOT / "shop" / "lua").glob("*.lua")}
    mapped = set(re.findall(r"`(shop/lua/[^`]+)`", note()))

    assert scripts - mapped == {
        # Not in the model: polling, and records that Redis lost.
        "shop/lua/read.lua",
        "shop/lua/restore.lua",
        # Nor how a PostgreSQL that goes back is noticed: there, it is.
        "shop/lua/follow.lua",
    }


def test_each_mutant_of_the_model_is_searched_and_each_property_fails_for_one() -> None:
    uncommented = re.sub(r"/\*.*?\*/", "", PROTOCOL.read_text(), flags=re.DOTALL)
    kinds = [re.findall(r"\w+", names) for names in re.findall(r"mtype = \{(.*?)\};", uncommented, re.DOTALL)]
    mutants, properties = set(kinds[0]), set(kinds[-1])

    assert {search.mutant for search in SEARCHES} == mutants
    assert {search.expected for search in SEARCHES} == properties | {HOLDS, NEVER_RESTS}


def test_the_note_tells_what_each_search_is_to_find() -> None:
    told = {name: finds for name, finds, *_ in cells("search")}

    assert told == {
        each.name: HOLDS if each.expected == HOLDS else f"refuted: {each.expected.replace('_', ' ')}"
        for each in SEARCHES
    }


def test_a_report_of_spin_is_read_as_what_failed_and_how() -> None:
    told = (
        "\t\tworker 1 died\n  3:\tproc 1 (Worker:1)\n\t\tlock[0] = 2\n"
        "spin: text of failed assertion: assert((oversold==0))\n"
    )

    assert (verdict(HELD, ""), states(HELD)) == (HOLDS, 3_450_505)
    assert (verdict(FAILED, told), story(told)) == ("oversold", "worker 1 died")
    assert verdict("pan:1: acceptance cycle (at depth 187)\n errors: 1\n", "") == NEVER_RESTS
    assert (
        verdict("pan:1: invalid end state (at depth 9)\n errors: 1\n", "")
        == "pan:1: invalid end state (at depth 9)"
    )


@pytest.mark.parametrize(
    "report",
    [
        "",
        "error: max search depth too small\n" + HELD,
        "pan: reached -DMEMLIM bound\nWarning: Search not completed\n" + HELD,
        "pan: out of memory\n" + HELD,
    ],
)
def test_a_search_that_was_cut_short_proves_nothing(report: str) -> None:
    with pytest.raises(Unsearched):
        verdict(report, "")


def test_a_mutant_that_survives_and_a_property_that_fails_are_surprises() -> None:
    holds, mutant = SEARCHES[0], SEARCHES[-1]

    assert surprise(holds, Found(verdict=HOLDS, states=1, seconds=0)) == []
    assert surprise(mutant, Found(verdict=mutant.expected, states=1, seconds=0)) == []
    assert surprise(holds, Found(verdict="oversold", states=1, seconds=0, story="worker 1 died")) != []
    assert surprise(mutant, Found(verdict=HOLDS, states=1, seconds=0)) != []


def test_a_machine_without_spin_is_told_how_to_get_it(tmp_path: Path) -> None:
    done = run("--quick", path=str(tmp_path))

    assert (done.returncode, done.stdout) == (2, "")
    assert "needs spin and cc" in done.stderr
    assert "apt-get install spin" in done.stderr


def test_the_smallest_searches_find_what_they_are_to_find_where_spin_is_there() -> None:
    done = run("--quick")

    found = [row.split(" | ")[0].strip("| ") for row in done.stdout.splitlines()[2:]]
    has_tools = shutil.which("spin") and shutil.which("cc")
    assert (done.returncode, found) == (
        (0, [each.name for each in SEARCHES if each.quick]) if has_tools else (2, [])
    ), done.stderr
