"""A round: so many orders at once, timed until the last of them has ended, then checked."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from tests.benchmarks.load import ACCEPTED, Apart, Flood, Flooded
from tests.benchmarks.meter import Meter
from tests.benchmarks.systems import POLL_S, Line, System

#: A system that ends no order for so long will not end the rest either.
STUCK_AFTER_S: Final = 60.0
#: Faults told of one round.
EXAMPLES: Final = 5

Order = Sequence[Line]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a round measured. `seconds`: from the first request until no accepted order was without an end.

    `cpu_us`: microseconds of CPU per order by component. A round with `faults` is no result.
    """

    system: str
    scenario: str
    orders: int
    lines: int
    seconds: float
    posting_s: float
    cpu_us: Mapping[str, float]
    load_us: float
    statuses: Mapping[int, int]
    faults: Sequence[str] = field(default=())

    @property
    def orders_per_s(self) -> float:
        """End to end."""
        return self.orders / self.seconds

    @property
    def lines_per_s(self) -> float:
        """End to end."""
        return self.lines / self.seconds

    @property
    def total_us(self) -> float:
        """CPU per order of all processes but Flower's and the load generator's."""
        return sum(us for name, us in self.cpu_us.items() if name != "flower")

    def __str__(self) -> str:
        costs = ", ".join(f"{name} {us:.0f}" for name, us in sorted(self.cpu_us.items()) if us >= 1)
        verdict = "  WRONG" if self.faults else ""
        return (
            f"{self.system:<20} {self.scenario:<7} {self.orders_per_s:6,.0f} orders/s "
            f"{self.total_us:6,.0f} us/order ({costs}; load {self.load_us:.0f}){verdict}"
        )


def run(
    system: System,
    orders: Sequence[Order],
    *,
    tag: str,
    scenario: str,
    label: str = "",
    left_waiting: int = 0,
) -> Round:
    """Place these orders under keys that begin with `tag`; `left_waiting` others are known not to end.

    Raises LoadFailed.
    """
    requests = [system.post(f"{tag}-{number}", order) for number, order in enumerate(orders)]
    before = system.snapshot(sorted({sku for order in orders for sku, _ in order}))
    with Apart(Flood(address=system.address, requests=requests)) as load:
        meter = Meter(system.pids)
        drained_at = _drained(system, load, left_waiting)
        cpu = meter.read()
        flooded: Flooded = load.result()
    accepted = len(flooded.accepted)
    return Round(
        system=label or system.name,
        scenario=scenario,
        orders=accepted,
        lines=sum(map(len, orders)),
        seconds=max(drained_at or time.monotonic(), flooded.ended) - flooded.began,
        posting_s=flooded.ended - flooded.began,
        cpu_us={name: seconds / max(1, accepted) * 1e6 for name, seconds in cpu.items()},
        load_us=flooded.cpu_s / len(requests) * 1e6,
        statuses=dict(flooded.statuses),
        faults=_faults(system, before, flooded, drained_at),
    )


def _drained(system: System, load: Apart, left_waiting: int) -> float | None:
    """When the last order had ended, once the load is done; None where they do not end.

    The moment is the first one of those after which nothing waited any more, because the load process takes a little
    longer to report than to send.
    """
    empty_since: float | None = None
    fewest, progress_at = float("inf"), time.monotonic()
    is_done = False
    while True:
        now = time.monotonic()
        waiting = system.waiting() - left_waiting
        empty_since = None if waiting else empty_since or now
        is_done = is_done or load.is_done(within_s=0)
        if is_done and empty_since:
            return empty_since
        if not is_done or waiting < fewest:
            fewest, progress_at = waiting, now
        if now - progress_at > STUCK_AFTER_S:
            return None
        time.sleep(POLL_S)


def _faults(system: System, before: object, flooded: Flooded, drained_at: float | None) -> list[str]:
    faults = [] if drained_at else [f"{system.waiting()} orders did not end"]
    faults += [f"{n} answers {status}" for status, n in flooded.statuses.items() if status != ACCEPTED]
    faults += system.faults(before, flooded.accepted)
    more = len(faults) - EXAMPLES
    return faults if more <= 0 else [*faults[:EXAMPLES], f"and {more} more"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """What was measured at `x`: medians, and the smallest and largest rate.

    `beside`, `beside_us`: orders/s and CPU per order of the system that did not grow, in the same minutes.
    """

    x: float
    orders_per_s: float
    low: float
    high: float
    lines_per_s: float
    cpu_us: float
    by_component_us: dict[str, float]
    beside: float | None = None
    beside_us: float | None = None


def point(x: float, found: Sequence[Round], beside: Sequence[Round] = ()) -> Point:
    """Rounds that belong together, as a point of a curve."""
    rates = [one.orders_per_s for one in found]
    names = sorted({name for one in found for name in one.cpu_us})
    return Point(
        x=x,
        orders_per_s=median(rates),
        low=min(rates),
        high=max(rates),
        lines_per_s=median(one.lines_per_s for one in found),
        cpu_us=median(one.total_us for one in found),
        by_component_us={name: median(one.cpu_us.get(name, 0.0) for one in found) for name in names},
        beside=median(one.orders_per_s for one in beside) if beside else None,
        beside_us=median(one.total_us for one in beside) if beside else None,
    )
