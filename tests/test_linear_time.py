"""Whatever a client sends is read in a time in proportion to its length, and no pattern that reads it is forgotten."""

import ast
import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from shop import routes
from shop.web import metrics, parsing, staff
from shop.web.http import Request
from shop.web.problems import Kind, Problem
from tests import linear_time
from tests.linear_time import CONTROLS, OF_HEADERS, PATTERNS

ROOT: Final = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def too_slow() -> dict[str, dict[str, float]]:
    """By reader: the texts that it is too slow with."""
    told = subprocess.run(
        [sys.executable, "-m", "tests.linear_time"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert told.stderr == ""
    found: dict[str, dict[str, float]] = json.loads(told.stdout)
    return found


def test_all_that_reads_a_client_s_text_takes_a_time_in_proportion_to_its_length(
    too_slow: dict[str, dict[str, float]],
) -> None:
    assert {reader: slow for reader, slow in too_slow.items() if reader not in CONTROLS} == {}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_pattern_with_two_places_for_one_character_is_noticed(
    too_slow: dict[str, dict[str, float]], control: str
) -> None:
    assert too_slow[control]


def test_a_pattern_that_tries_every_reading_is_ended(too_slow: dict[str, dict[str, float]]) -> None:
    assert list(too_slow["blanks in two places"].values()) == [float("inf")]


# --- nothing is forgotten -------------------------------------------------------------------------


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of ours, by its name."""
    for package in ("shop", "tasks", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name, ast.parse(path.read_text())


MODULES: Final = dict(modules())
#: Their patterns meet text of operators' commands and of our own files.
NO_CLIENTS: Final = {
    "shop.management.commands.create_api_key",
    "shop.management.commands.replay",
    "shop.management.commands.settings_reference",
    "shop.web.documentation",
}


def is_call_of(node: ast.AST, module: str) -> bool:
    """Whether it calls something of a module."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == module
    )


def test_every_pattern_is_compiled_under_a_name_and_measured() -> None:
    compiled, calls = set(), 0
    for module, tree in MODULES.items():
        if module in NO_CLIENTS:
            continue
        calls += sum(is_call_of(node, "re") and node.func.attr != "escape" for node in ast.walk(tree))  # type: ignore[attr-defined]
        for statement in tree.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and is_call_of(statement.value, "re"):  # type: ignore[arg-type]
                target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
                compiled.add(f"{module}.{ast.unparse(target)}")

    assert compiled == set(PATTERNS)
    assert calls == len(compiled), "a pattern without a name: compile it at the top of its module"


def test_every_header_that_is_asked_for_is_measured() -> None:
    asked_for = {
        node.args[0].value.decode()
        for tree in MODULES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"header", "sent"}
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, bytes)
    }

    assert asked_for | {"traceparent", "tracestate"} == set(OF_HEADERS)


def test_every_parser_is_measured() -> None:
    parsers = {name for name in vars(parsing) if name.startswith("parse_")}

    assert parsers <= set(re.findall(r"\bparsing\.(\w+)", Path(linear_time.__file__).read_text()))


def test_nothing_is_remembered_by_what_a_client_sends_without_a_bound() -> None:
    """A cache that has arguments is in this table, with what bounds it."""
    bounded = {
        "shop.compaction._tell_once": "16 refusals of Redis",
        "shop.figures._fields": "histograms",
        "shop.pages.static_files._digest": "files of ours",
        "shop.queue._template": "tasks",
        "shop.routes._remembered": "1,024 addresses of 200 characters",
        "shop.scripts._asynchronous": "files of ours",
        "shop.scripts._is_in_json": "files of ours",
        "shop.scripts._sync": "files of ours",
        "shop.scripts.text": "files of ours",
        "shop.stores._broken_keys": "one",
        "shop.stores.sql": "files of ours",
        "shop.web.documentation._packed": "64 pages of ours",
        "shop.web.documentation._problem_page": "kinds of problems",
        "shop.web.metrics._of_request": "methods that are known, statuses",
        "shop.web.wheel.wheel": "our version",
        "workers.transport._script": "files of ours",
    }
    found = {
        f"{module}.{node.name}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.args.args
        and any(
            ast.unparse(decorator).split("(")[0] in {"cache", "lru_cache"}
            for decorator in node.decorator_list
        )
    }

    assert found == set(bounded)


def test_a_long_address_and_an_unknown_method_are_not_remembered() -> None:
    def remembered() -> tuple[int, int]:
        return routes._remembered.cache_info().currsize, metrics._of_request.cache_info().currsize

    metrics.count_request("F~O", 404)
    before = remembered()

    for number in range(100):
        routes.resolved(f"/api/v1/products/{'x' * 200}{number}")
        metrics.count_request(f"F~O{number}", 404)

    assert remembered() == before


def test_without_a_bound_a_long_address_would_be_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_REMEMBERED_LENGTH", 1_000)
    before = routes._remembered.cache_info().currsize

    routes.resolved(f"/api/v1/products/{'y' * 200}")

    assert routes._remembered.cache_info().currsize == before + 1


def test_a_session_that_is_longer_than_any_is_neither_looked_up_nor_remembered() -> None:
    request = Request(method="GET", path="/", headers={b"cookie": [f"sessionid={'x' * 41}"]})

    with pytest.raises(Problem) as refused:
        asyncio.run(staff.require_staff(request))

    assert refused.value.kind is Kind.FORBIDDEN
    assert "x" * 41 not in staff._known
