"""More orders than may be served: how many are served all the same, how fast others are refused, and what comes after."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from tests.benchmarks import contest, traffic, wire
from tests.benchmarks.arrivals import ID_PLACE, Arrivals, Followed, percentile
from tests.benchmarks.bench import Bench, Case
from tests.benchmarks.load import ACCEPTED, run_apart
from tests.benchmarks.meter import Meter
from tests.benchmarks.reserva import Reserva
from tests.benchmarks.systems import ask, unless, wait_until

TIMES: Final = (1, 10)
#: Orders per second that a client may place, where the rate is limited.
RATE: Final = 200
#: Orders that may wait, where the queue is limited: about half a second of work.
QUEUE: Final = 1_500
#: The generator shares two cores with the system and can't send ten times what workers do at their best. With a PostgreSQL
#: that takes a quarter of a second for each batch it can; the queue is some seconds of work then.
SLOW: Final = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.25); RETURN NULL; END';
CREATE TRIGGER slow AFTER INSERT ON shop_order FOR EACH STATEMENT EXECUTE FUNCTION slow();
"""
#: More requests than this take longer to send than the measurement is to last, however fast they are due.
REQUESTS_MAX: Final = 150_000
#: Clients at a time. What was offered is told as measured.
CLIENTS: Final = 1_000
REFUSALS: Final = {429, 503}
DRAINED_WITHIN_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Overload:
    """What was measured under so many times the load that may be served.

    `recovery_s`: from the last request of the load until an order sent then was accepted and could be read as ended.
    `web_cpu_us`: microseconds of CPU of the web processes per request. `cores`: processors that all of the system had
    while the load lasted; the generator had the others.
    """

    limit: str
    times: int
    offered_per_s: float
    served_per_s: float
    refused: int
    refusal_p50_ms: float
    refusal_p99_ms: float
    recovery_s: float
    web_cpu_us: float
    cores: float


class Ungated(Reserva):
    """This system without `shop/web/gate.py`."""

    COMMAND = ("-m", "tests.benchmarks.ungated", "up")


def overload(bench: Bench) -> None:
    """A client over its rate; all clients over what workers can do, at their best and with a slow store."""
    limited = bench.reserva("overload, rate", ORDER_RATE_LIMIT=str(RATE))
    for times in TIMES:
        _measure(bench, limited, "rate", times, RATE)
    bench.stop(limited.name)
    most = contest.maximum(bench)
    bench.stop_all_but([])
    limited = bench.reserva("overload, queue", QUEUE_LIMIT=str(QUEUE))
    for times in TIMES:
        _measure(bench, limited, "queue", times, most)
    bench.stop(limited.name)
    for kind, limit in ((Reserva, "slow store"), (Ungated, "slow store, no gate")):
        slow = kind(bench.folder / limit.replace(" ", "-"), f"overload, {limit}", QUEUE_LIMIT=str(QUEUE))
        bench.start(slow)
        slow.database.execute(SLOW)
        can_serve = _at_its_best(bench, slow)
        for times in TIMES:
            _measure(bench, slow, limit, times, can_serve)
        bench.stop(slow.name)


def _at_its_best(bench: Bench, system: Reserva) -> float:
    """Orders per second where as many are sent as the queue may hold."""
    case = Case(system=system, scenario="spread", traffic=traffic.spread(), warm_orders=QUEUE)
    return max(bench.round(replace(case, label=f"{system.name} {n}"), 0.0).orders_per_s for n in range(2))


def _measure(bench: Bench, system: Reserva, limit: str, times: int, can_serve_per_s: float) -> None:
    seconds = bench.pace.steady_s
    tag = bench.tag()
    orders = traffic.spread()(min(REQUESTS_MAX, round(can_serve_per_s * times * seconds)))
    requests = [system.post(f"{tag}-{number}", order) for number, order in enumerate(orders)]
    before = system.snapshot(list(traffic.on_sale()))
    plan = Arrivals(
        address=system.address,
        requests=requests,
        per_second=can_serve_per_s * times,
        ask=system.get(ID_PLACE.decode(), wait_s=0),
        follow_every=len(requests) + 1,
        most_connections=CLIENTS,
    )
    meter = Meter(system.pids)
    found: Followed = run_apart(plan)
    cpu_s = meter.read()
    waiting = system.waiting()
    after, recovery_s = _recovery(system, tag)
    wait_until(lambda: not system.waiting(), within_s=DRAINED_WITHIN_S, what="the end of all orders")
    told = Overload(
        limit=limit,
        times=times,
        offered_per_s=len(requests) / found.seconds,
        served_per_s=(len(found.accepted) - waiting) / found.seconds,
        refused=len(found.refusals_s),
        refusal_p50_ms=_ms(found.refusals_s, 0.5),
        refusal_p99_ms=_ms(found.refusals_s, 0.99),
        recovery_s=recovery_s,
        web_cpu_us=cpu_s["web"] / len(requests) * 1e6,
        cores=sum(cpu_s.values()) / found.seconds,
    )
    bench.found.overload.append(told)
    odd = set(found.statuses) - REFUSALS - {ACCEPTED}
    faults = [*unless(not odd, f"answers {odd}"), *system.faults(before, [*found.accepted, after])]
    bench.wrong(f"overload, {limit}, {times} times", faults)
    bench.say(
        f"{limit} limit, {times} times: offered {told.offered_per_s:,.0f}/s, served {told.served_per_s:,.0f}/s, "
        f"refused in p99 {told.refusal_p99_ms:,.1f} ms, recovered in {recovery_s:.2f} s"
    )


def _recovery(system: Reserva, tag: str) -> tuple[str, float]:
    """The id of an order placed now, over and over until it is accepted, and how long that took until its end."""
    began = time.monotonic()
    request = system.post(f"{tag}-after", traffic.hot(1)[0])
    while wire.status(answer := ask(system.address, request)) != ACCEPTED:
        if time.monotonic() - began > DRAINED_WITHIN_S:
            raise TimeoutError("no order was accepted any more")
    order_id = wire.order_id(answer)
    ask(system.address, system.get(order_id, wait_s=30))
    return order_id, time.monotonic() - began


def _ms(seconds: Sequence[float], share: float) -> float:
    return 1000 * percentile(seconds, share) if seconds else 0.0
