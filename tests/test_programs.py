"""Tests that need a program of the machine: they are left out without it, and that is said."""

from pathlib import Path

import pytest

from tests import programs
from tests.programs import Program

HERE = Path(__file__).parent
THERE = Program(("no-such-shell", "sh"), "dash", "test_there.py")
MISSING = Program(("no-such-program",), "no-such-package", "test_missing.py")
OTHER_OF_IT = Program(("no-such-tool",), "no-such-package", "test_missing.py")


def test_only_tests_of_a_program_that_is_missing_are_left_out() -> None:
    assert list(programs.uncollected([THERE, MISSING])) == ["test_missing.py"]


def test_what_was_left_out_is_said_in_one_line_with_what_to_install() -> None:
    assert programs.left_out([THERE, MISSING, OTHER_OF_IT]) == (
        "Left out, without no-such-program, no-such-tool on this machine: tests/test_missing.py"
        " (Debian: apt-get install no-such-package)."
    )


def test_where_everything_is_there_nothing_is_said() -> None:
    assert programs.left_out([THERE]) == ""


def test_whoever_runs_a_test_without_its_program_is_told_what_it_needs() -> None:
    with pytest.raises(AssertionError, match=r"needs no-such-program \(Debian: apt-get install no-such-pack"):
        _ = MISSING.installed


def test_the_tests_that_would_be_left_out_exist() -> None:
    assert [program.files for program in programs.ALL if not list(HERE.glob(program.files))] == []
