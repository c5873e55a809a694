"""From POST to readable result, at steady rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.benchmarks.arrivals import ID_PLACE, Arrivals, Followed, percentile
from tests.benchmarks.load import ACCEPTED, Apart
from tests.benchmarks.meter import Meter
from tests.benchmarks.systems import System, wait_until
from tests.benchmarks.traffic import Traffic

#: How long a long poll may be held.
WAIT_S: Final = 10
#: After an arrival, everything has ended within this, or never will.
END_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What steady arrivals met, in milliseconds. `late_p99_ms`: how late the generator itself was, which counts too.

    `longest_answer_ms`: of all POSTs, from due to answered.
    """

    system: str
    scenario: str
    per_second: float
    followed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    late_p99_ms: float
    longest_answer_ms: float
    cpu_us: Mapping[str, float]
    load_us: float
    statuses: Mapping[int, int]
    faults: Sequence[str] = field(default=())


def measure(
    system: System,
    traffic: Traffic,
    *,
    tag: str,
    scenario: str,
    per_second: float,
    seconds: float,
    follow_every: int = 1,
    again_after_s: float = 0.0,
) -> Latency:
    """Steady arrivals for so many seconds, then the same checks as after a round. Raises LoadFailed."""
    orders = traffic(max(1, round(per_second * seconds)))
    before = system.snapshot(sorted({sku for order in orders for sku, _ in order}))
    plan = Arrivals(
        address=system.address,
        requests=[system.post(f"{tag}-{number}", order) for number, order in enumerate(orders)],
        per_second=per_second,
        ask=system.get(ID_PLACE.decode(), wait_s=WAIT_S),
        follow_every=follow_every,
        again_after_s=again_after_s,
    )
    with Apart(plan) as load:
        meter = Meter(system.pids)
        found: Followed = load.result()
        cpu = meter.read()
    faults = [f"{n} answers {status}" for status, n in found.statuses.items() if status != ACCEPTED]
    try:
        wait_until(lambda: not system.waiting(), within_s=END_S, what="the end of all orders")
    except TimeoutError as late:
        faults.append(str(late))
    faults += system.faults(before, found.accepted)
    p50, p95, p99 = (1000 * percentile(found.latencies_s, share) for share in (0.50, 0.95, 0.99))
    return Latency(
        system=system.name,
        scenario=scenario,
        per_second=per_second,
        followed=len(found.latencies_s),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        late_p99_ms=1000 * percentile(found.lateness_s, 0.99),
        longest_answer_ms=1000 * found.longest_answer_s,
        cpu_us={name: seconds / len(orders) * 1e6 for name, seconds in cpu.items()},
        load_us=found.cpu_s / len(orders) * 1e6,
        statuses=dict(found.statuses),
        faults=faults[:5],
    )
