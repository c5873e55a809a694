"""How the cost of an order grows with what waits: clients that poll, and messages on the queue."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from shop import keys
from tests.benchmarks import traffic
from tests.benchmarks.bench import Bench
from tests.benchmarks.growth import ROUND_S, TIMES, case, keep
from tests.benchmarks.load import Apart, Flood, Flooded, LoadFailed, run_apart
from tests.benchmarks.meter import Meter
from tests.benchmarks.pollers import Pollers, Woken
from tests.benchmarks.reserva import Reserva
from tests.benchmarks.rounds import Point, point
from tests.benchmarks.systems import wait_until

POLLERS: Final = (0, 500, 1_000, 2_500, 5_000)
POLL_S: Final = 30
BACKLOG: Final = 200_000
#: The drain is cut into slices of so many orders; each is a point of the curve.
SLICE: Final = 20_000
POSTED_AT_ONCE: Final = 25_000
PARKED: Final = "benchmark:parked"
NEVER_MS: Final = "3600000"


def pollers(bench: Bench) -> None:
    """Clients that wait, each for an order of its own that stays queued, while other orders flow.

    Their orders are accepted as usual; then their messages are taken off the queue, so that nothing but waiting is added.
    At the end the messages are put back, and all of them are woken at once.
    """
    system = bench.reserva("growth, pollers", SWEEP_AFTER_MS=NEVER_MS)
    spread = case(system)
    bench.warm_up(spread)
    parked = _park(system, POLLERS[-1])
    asks = [system.get(order_id, wait_s=POLL_S) for order_id in parked]
    with ExitStack() as stack:
        waiting: list[Apart] = []
        for before, size in zip((0, *POLLERS), POLLERS, strict=False):
            if size > before:
                crowd = Pollers(address=system.address, requests=asks[before:size])
                waiting.append(stack.enter_context(Apart(crowd)))
                waiting[-1].await_sign()
            found = [bench.round(spread, ROUND_S, left_waiting=len(parked)) for _ in range(TIMES)]
            keep(bench, "pollers", point(size, found))
        released_at = time.monotonic()
        system.redis.rename(PARKED, keys.ORDER_QUEUE)
        woken: list[Woken] = [crowd.result() for crowd in waiting]
    took_s = max(one.last_at for one in woken) - released_at
    bench.found.notes.append(
        f"{len(parked):,} waiting clients had their results {took_s:.2f} s after release"
    )
    bench.stop(system.name)


def _park(system: Reserva, orders: int) -> Sequence[str]:
    """Ids of so many orders that are accepted and stay queued."""
    with _stopped_workers(system):
        accepted = _post(system, orders, tag="parked").accepted
        system.redis.rename(keys.ORDER_QUEUE, PARKED)
    return accepted


def backlog(bench: Bench) -> None:
    """Orders pile up while no worker runs; then one drains them, as fast at the top as at the bottom or not."""
    system = bench.reserva("growth, backlog", QUEUE_LIMIT=str(2 * BACKLOG))
    bench.warm_up(case(system))
    before = system.snapshot(list(traffic.on_sale()))
    accepted: list[str] = []
    with _stopped_workers(system):
        for batch in range(BACKLOG // POSTED_AT_ONCE):
            meter = Meter(system.pids)
            flooded = _post(system, POSTED_AT_ONCE, tag=f"backlog-{batch}")
            accepted += flooded.accepted
            used = meter.read()
            keep(bench, "posting", _slice(len(accepted), POSTED_AT_ONCE, flooded.ended - flooded.began, used))
    # A rewrite of its file that posting has begun is not the drain's to pay.
    wait_until(partial(_is_not_rewriting, system), within_s=60, what="the end of Redis's rewrite")
    for drained in _drain(system, len(accepted)):
        keep(bench, "backlog", drained)
    bench.wrong("backlog", system.faults(before, accepted))
    bench.stop(system.name)


def _drain(system: Reserva, size: int) -> Iterator[Point]:
    """The rate of each slice, from the full backlog down to nothing."""
    for top in range(size, 0, -SLICE):
        meter, began = Meter(system.pids), time.monotonic()
        left = max(0, top - SLICE)
        had = system.waiting()
        wait_until(partial(_has_fewer, system, left + 1), within_s=120, what=f"{left:,} orders waiting")
        drained, took_s = had - system.waiting(), time.monotonic() - began
        yield _slice(top, drained, took_s, meter.read())


def _is_not_rewriting(system: Reserva) -> bool:
    return not system.redis.info("persistence")["aof_rewrite_in_progress"]


def _has_fewer(system: Reserva, orders: int) -> bool:
    return system.waiting() < orders


def _slice(x: int, orders: int, seconds: float, used: dict[str, float]) -> Point:
    per_order = {name: 1e6 * cpu_s / orders for name, cpu_s in used.items() if name != "flower"}
    rate = orders / seconds
    return Point(
        x=x,
        orders_per_s=rate,
        low=rate,
        high=rate,
        lines_per_s=rate * traffic.SPREAD_LINES,
        cpu_us=sum(per_order.values()),
        by_component_us=per_order,
    )


def _post(system: Reserva, orders: int, *, tag: str) -> Flooded:
    wanted = traffic.spread()(orders)
    requests = [system.post(f"{tag}-{number}", order) for number, order in enumerate(wanted)]
    flooded: Flooded = run_apart(Flood(address=system.address, requests=requests))
    if len(flooded.accepted) != orders:
        raise LoadFailed(f"{tag}: {dict(flooded.statuses)}")
    return flooded


@contextmanager
def _stopped_workers(system: Reserva) -> Iterator[None]:
    """No worker runs meanwhile, though nobody else notices."""
    pids = system.pids()["worker"]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
