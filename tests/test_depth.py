"""Tests that only add depth are left out aloud."""

from pathlib import Path

import pytest

from tests import depth

ROOT = Path(__file__).parent.parent


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has left nothing and heard of nothing."""
    monkeypatch.setattr(depth, "_left", set())
    monkeypatch.setattr(depth, "_told", [])


@pytest.mark.usefixtures("fresh")
def test_where_nothing_is_left_nothing_is_said() -> None:
    assert depth.left_out() == ""


@pytest.mark.usefixtures("fresh")
def test_what_is_left_is_counted_and_where_it_runs_is_said() -> None:
    # Each of the processes that run tests leaves the same ones.
    for _ in range(3):
        depth.hear(12)

    assert depth.left_out() == "Left to `make test-all`: 12 tests that add depth (marked `depth`)."


def test_what_make_test_leaves_out_make_test_all_runs() -> None:
    targets = (ROOT / "Makefile").read_text()

    assert '$(PYTEST) -m "not depth"\n' in targets
    assert "\n\t$(PYTEST)\n" in targets.partition("test-all:")[2].partition("\n\n")[0]
