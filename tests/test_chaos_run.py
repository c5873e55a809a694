"""A short run under faults, the same ones each time; `make chaos` is the long one."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.chaos import plots, report
from tests.chaos.faults import CATALOGUE
from tests.chaos.history import UNKNOWN
from tests.chaos.run import Plan, Run
from tests.chaos.schedule import Burst, bursts

SEED: Final = 4
PATIENCE_S: Final = 300
#: Kinds after which all is well within seconds: of each store and of the web tier.
FEW_KINDS: Final = (
    "clients-killed",
    "redis-replies-lost",
    "redis-full",
    "redis-killed",
    "redis-emptied",
    "stock-deleted",
    "postgres-reset",
    "postgres-replies-lost",
    "commits-cut",
    "web-killed",
)
MORE_KINDS: Final = (
    *FEW_KINDS,
    "scripts-flushed",
    "redis-reset",
    "redis-power-cut",
    "stock-raised",
)


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(FEW_KINDS, id="few kinds"),
        pytest.param(MORE_KINDS, id="more kinds", marks=pytest.mark.depth),
    ],
)
def test_everything_that_was_promised_holds_through_faults(tmp_path: Path, kinds: Sequence[str]) -> None:
    faults = [CATALOGUE[name] for name in kinds]
    # It ends with the last of so many faults, however long a busy machine takes for them.
    plan = Plan(seed=SEED, seconds=PATIENCE_S, faults=faults, clients=8, most=len(kinds))
    tmp_path.chmod(0o711)  # PostgreSQL, started by root, runs as somebody who must be able to pass through
    said: list[str] = [f"seed {SEED}"]

    result = Run(plan, tmp_path, tmp_path, said.append)()

    print(*said, sep="\n")  # what pytest shows where it fails
    assert result.violations == []
    assert sum(not one.missed for one in result.injections) >= len(kinds)
    assert any(one.outcome == UNKNOWN for one in result.operations)
    assert result.ended["confirmed"] > 100
    data = report.as_data(plan, result)
    assert "# Faults: GREEN" in report.render(data)
    assert f"{sum(not one.missed for one in result.injections)} faults" in report.summed(
        [data, data | {"faults": []}]
    )
    assert plots.draw(data, tmp_path / "timeline.svg").exists()


def first(seed: int, number: int = 40) -> list[Burst]:
    """The first bursts of a schedule of all kinds."""
    return list(itertools.islice(bursts(seed, list(CATALOGUE.values())), number))


def test_a_seed_gives_the_same_faults_in_the_same_order_again() -> None:
    assert first(1) == first(1)
    assert first(1) != first(2)


def test_every_kind_of_fault_comes_and_is_waited_for() -> None:
    planned = first(1, number=1000)

    assert {one.fault.name for burst in planned for one in burst.planned} == set(CATALOGUE)
    assert {one.fault.name for burst in planned for one in burst.planned if burst.is_measured} == set(
        CATALOGUE
    )


def test_there_are_enough_kinds_of_faults() -> None:
    assert len(CATALOGUE) >= 60
