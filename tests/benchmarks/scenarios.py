"""All that can be measured, in the order in which it is, and about how long each takes."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks import bench, board, contest, crowds, growth, history, overload, waiting
from tests.benchmarks.bench import Bench

#: Of the real orders, the quick form takes the first so many.
QUICK_SALES: Final = 2_000
HISTORIES: Final = 2

SIDE_BY_SIDE: Final = {
    "spread": "1,000 SKUs, 3 lines, all systems",
    "hot": "one SKU that everybody wants, 1 line",
    "everysec": "Redis syncing once a second instead of always",
    "flower": "Flower attached; an order that it does not see makes the round wrong",
    "tuned": "the textbook with connections to PostgreSQL that are kept from task to task (full form)",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something to measure, about how long that takes, and the systems that may run already."""

    seconds: float
    measure: Callable[[Bench], None]
    needs: Collection[str] = (growth.SMALL,)
    meaning: str = ""


GROWTH: Final[Mapping[str, Step]] = {
    "stored": Step(
        meaning="0 to 1,000,000 orders stored in PostgreSQL", seconds=150, measure=growth.stored_orders
    ),
    "skus": Step(meaning="10 to 100,000 SKUs", seconds=80, measure=growth.skus),
    "lines": Step(meaning="1 to 1,000 lines per order", seconds=25, measure=growth.lines),
    "pollers": Step(meaning="0 to 5,000 clients in a long poll", seconds=45, measure=waiting.pollers),
    "backlog": Step(meaning="0 to 200,000 messages waiting", seconds=80, measure=waiting.backlog),
    "processes": Step(meaning="1, 2 and 4 workers and web processes", seconds=130, measure=growth.processes),
}
#: Like the overload it belongs to no form, and is measured where it is named.
BOARD: Final = Step(meaning="a hundred open live boards", seconds=75, measure=board.boards, needs=())

CROWDS: Final = Step(
    meaning="crowds at the pages, while orders arrive at half load",
    seconds=240,
    measure=crowds.crowds,
    needs=(),
)

FULL: Final = (*SIDE_BY_SIDE, "latency", "scarce", "orders", *GROWTH)
QUICK: Final = tuple(name for name in FULL if name not in {"tuned", *GROWTH})
NAMES: Final = (*FULL, "overload", "board", "crowds")


def described() -> str:
    """One line for each scenario."""
    meanings = {
        **SIDE_BY_SIDE,
        "latency": "from POST to readable result at 50/s and at 70 % of the maximum",
        "scarce": "more buyers than units of one SKU; each unit must be sold, and none twice",
        "overload": "once and ten times what limits and a slow store let through, with and without the gate (where named)",
        "orders": "real orders, where --orders names a file",
        **{name: f"{step.meaning} (full form)" for name, step in GROWTH.items()},
        "board": f"{BOARD.meaning} (where named)",
        "crowds": f"{CROWDS.meaning} (where named)",
    }
    return "\n".join(f"  {name:<10}{meaning}" for name, meaning in meanings.items())


def run(on: Bench, wanted: Collection[str], *, systems: Collection[str], orders: Path | None) -> None:
    """Measure what is wanted."""
    steps = dict(_steps(on, wanted, systems, orders))
    on.expect({name: step.seconds for name, step in steps.items()})
    for name, step in steps.items():
        on.stop_all_but(step.needs)
        with on.step(name):
            step.measure(on)


def _steps(
    on: Bench, wanted: Collection[str], systems: Collection[str], orders: Path | None
) -> Iterator[tuple[str, Step]]:
    if together := set(wanted) & set(SIDE_BY_SIDE):
        cases = len(together) + sum(len(systems) - 1 for name in ("spread", "hot") if name in together)
        yield (
            "side by side",
            Step(
                seconds=15 + cases * (2 + on.pace.rounds * (on.pace.round_s + 0.7)),
                measure=partial(contest.side_by_side, wanted=together, systems=systems),
            ),
        )
    if "latency" in wanted:
        seconds = (on.pace.rounds * (len(systems) + 1) + on.pace.busy_rounds) * (on.pace.steady_s + 2)
        yield "latency", Step(seconds=seconds, measure=contest.latencies, needs=contest.SYSTEMS)
    if "scarce" in wanted:
        yield "scarce", Step(seconds=3, measure=contest.scarce, needs=(contest.RESERVA,))
    if "overload" in wanted:
        seconds = 4 * len(overload.TIMES) * (on.pace.steady_s + 10)
        yield "overload", Step(seconds=seconds, measure=overload.overload, needs=(contest.RESERVA,))
    if "orders" in wanted and orders:
        first, times = (QUICK_SALES, 1) if on.pace is bench.QUICK else (None, HISTORIES)
        replay = partial(history.run, file=orders, first=first, times=times)
        yield "orders", Step(seconds=20 * times, measure=replay, needs=(contest.RESERVA,))
    yield from ((name, step) for name, step in GROWTH.items() if name in wanted)
    if "board" in wanted:
        yield "board", BOARD
    if "crowds" in wanted:
        yield "crowds", CROWDS
