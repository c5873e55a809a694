"""The table of what holds: what it names is there, and no safeguard has a control that it does not name."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests import test_controls, test_transport

ROOT: Final = Path(__file__).parent.parent
TESTS: Final = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
}
CONTROLS: Final = {row[0] for row in (*test_controls.CONTROLS, *test_transport.CONTROLS, *test_transport.OFF)}


def table_of_guards() -> list[list[str]]:
    """The cells of each row: promise, guard, test, control."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    _, found = text.split(
        "| promise | guard | test | turns red without the guard |\n| --- | --- | --- | --- |\n"
    )
    rows = found.split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def named_in(text: str) -> list[str]:
    """The tests that a text names, whole or by their beginning and three dots."""
    return re.findall(r"`(test_\w+(?:\.\.\.)?)`", text)


def missing(names: list[str]) -> list[str]:
    """Names that no test has, and beginnings that no test, or more than one, has."""
    return [
        name
        for name in names
        if sum(test.startswith(name[:-3]) if name.endswith("...") else test == name for test in TESTS) != 1
    ]


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "SECURITY.md", "README.md", "docs/upgrade.md"])
def test_every_test_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    files = re.findall(r"`(?:tests/)?(test_\w+\.py)`", text)

    assert missing(named_in(text)) == []
    assert [file for file in files if not (ROOT / "tests" / file).exists()] == []


def test_a_test_that_does_not_exist_is_missed() -> None:
    assert missing(["test_a_test_that_does_not_exist_is_missed", "test_every_test_that_a_document..."]) == []
    assert missing(["test_nothing_of_the_kind", "test_nothing...", "test_a_..."]) == [
        "test_nothing_of_the_kind",
        "test_nothing...",
        "test_a_...",
    ]


def test_each_promise_names_its_test_and_what_turns_red_without_its_guard() -> None:
    rows = table_of_guards()

    assert len(rows) > 20
    assert {len(row) for row in rows} == {4}
    assert [promise for promise, _, test, _ in rows if "test" not in test] == []
    assert [row[0] for row in rows if not named_in(row[3]) and not re.findall(r"\*[^*]+\*", row[3])] == []


def test_each_control_of_a_safeguard_is_named_and_is_one() -> None:
    named = [name for row in table_of_guards() for name in re.findall(r"\*([^*]+)\*", row[3])]

    assert sorted(named) == sorted(CONTROLS)
