"""The list of mutants: each guard stands where the list says, no promise is without one, and some are tried each time."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import test_architecture, test_controls, test_transport
from tests.mutants import __main__ as command
from tests.mutants.every import LISTED, PINNED, all_mutants, sample
from tests.mutants.mutant import ROOT, Mutant, NoLongerApplies
from tests.mutants.trial import end_programs_in, judged, try_out

MUTANTS = all_mutants()
#: Tests that no small replacement turns red, and why.
NONE_FOR = {
    "test_processes_of_this_release_go_on...": "the migrations that processes trip over are those of a next release"
}
BUCKET = "tests/test_clocks.py::test_a_bucket_that_a_clock_filled_for_hours_counts_as_full"


def a_mutant(text: str, instead: str, test: str) -> Mutant:
    """One that takes something out of the script that accepts orders."""
    return Mutant(name="a test's", file="shop/lua/accept.lua", text=text, instead=instead, tests=(test,))


def watching(mutants: list[Mutant]) -> set[str]:
    """The tests that have to notice these mutants, by their names."""
    return {test.partition("[")[0].partition("::")[2] for mutant in mutants for test in mutant.tests}


def guards(mutant: Mutant, row: list[str]) -> bool:
    """Whether a mutant is one of a row's: it says so, or it is a control that the row names."""
    return row[0].startswith(mutant.promise) if mutant.promise else f"*{mutant.name}*" in row[3]


def is_among(names: set[str], name: str) -> bool:
    """Whether a test that a row names, whole or by its beginning, is one of these."""
    return any(each.startswith(name[:-3]) if name.endswith("...") else each == name for each in names)


def test_each_guard_stands_in_its_file_as_the_list_has_it() -> None:
    unchanged = [each.name for each in MUTANTS if each.mutated() == (ROOT / each.file).read_text()]

    assert unchanged == []


def test_each_mutant_has_a_name_of_its_own_and_tests_that_exist() -> None:
    names = [mutant.name for mutant in MUTANTS]

    assert sorted(names) == sorted(set(names))
    assert watching(MUTANTS) <= test_architecture.TESTS
    assert set(PINNED) <= {mutant.name for mutant in LISTED}


def test_each_control_of_a_script_or_statement_is_a_mutant() -> None:
    controls = {row[0] for row in (*test_controls.CONTROLS, *test_transport.CONTROLS)}

    assert controls <= {mutant.name for mutant in MUTANTS}


def test_each_promise_has_a_mutant_and_each_mutant_that_names_a_promise_has_it() -> None:
    rows = test_architecture.table_of_guards()

    assert [row[0] for row in rows if not any(guards(mutant, row) for mutant in MUTANTS)] == []
    assert [
        mutant.name
        for mutant in MUTANTS
        if mutant.promise and sum(row[0].startswith(mutant.promise) for row in rows) != 1
    ] == []


def test_each_test_that_a_promise_names_must_turn_red_for_a_mutant() -> None:
    seen = watching(MUTANTS)
    named = {
        name for row in test_architecture.table_of_guards() for name in test_architecture.named_in(row[2])
    }

    assert {name for name in named if not is_among(seen, name)} == set(NONE_FOR)


@pytest.mark.parametrize("text", ["no such text", "redis.call("])
def test_text_that_is_gone_or_stands_there_more_than_once_is_an_error(text: str) -> None:
    mutant = a_mutant(text, "", BUCKET)

    with pytest.raises(NoLongerApplies, match="has its text"):
        mutant.mutated()
    assert try_out(mutant).verdict == "no longer applies"


def test_what_its_test_does_not_notice_is_found_and_so_is_what_is_no_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unnoticed = a_mutant("-- no bucket is:", "-- is none:", BUCKET)
    no_program = a_mutant("if until_full > 1000 then", "if until_full > 1000", BUCKET)
    monkeypatch.setattr(command, "chosen", lambda _: [unnoticed, no_program])

    code = command.main([])

    printed = capsys.readouterr()
    assert code == 1
    assert "1 green" in printed.out
    assert "1 broken" in printed.out
    assert f"{BUCKET} does not notice" in printed.err
    assert "Error compiling script" in printed.err


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ('<failure message="AssertionError: 1"/>', "red"),
        ("", "green"),
        ('<error message="failed on setup with ImportError"/>', "broken"),
        ('<error message="failed on teardown with assert 1 == 0"/>', "red"),
        ('<failure message="NameError: x"/>', "broken"),
    ],
)
def test_red_is_a_test_that_failed_by_itself(found: str, verdict: str) -> None:
    mutant = a_mutant("a", "b", "tests/test_a.py::test_b")
    results = f'<suite><testcase classname="tests.test_a" name="test_b[1]">{found}</testcase></suite>'

    assert (judged(mutant, results) or "")[0] == verdict


def test_a_test_that_did_not_run_is_not_red() -> None:
    results = '<suite><testcase classname="tests.test_a" name="test_c"><failure/></testcase></suite>'

    assert judged(a_mutant("a", "b", "tests/test_a.py::test_b"), results) is None


def test_what_a_test_leaves_running_in_its_copy_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=tmp_path) as left:
        end_programs_in(tmp_path)

        assert left.wait(timeout=10) == -signal.SIGKILL


def test_the_sample_is_the_same_for_one_commit_and_has_those_that_were_green_once() -> None:
    names = [mutant.name for mutant in sample()]

    assert names == [mutant.name for mutant in sample()]
    assert set(PINNED) < set(names)


def test_without_its_guard_the_test_of_each_mutant_of_the_sample_turns_red(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = command.main(["--sample"])

    assert code == 0, "".join(capsys.readouterr())
