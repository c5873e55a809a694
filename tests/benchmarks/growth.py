"""How the cost of an order grows with what there is: orders stored, SKUs, lines, processes.

Where the machine's moods could pass for growth, a system that did not grow is measured in turn with the one that did,
and each point says what that one did meanwhile.
"""

from typing import Final

from shop import keys
from tests.benchmarks import traffic
from tests.benchmarks.bench import Bench, Case
from tests.benchmarks.reserva import Reserva
from tests.benchmarks.rounds import Point, Round, point

#: The system that does not grow.
SMALL: Final = "growth, small"

STORED: Final = (0, 100_000, 300_000, 1_000_000)
SKUS: Final = (10, 100, 1_000, 10_000, 100_000)
LINES: Final = (1, 3, 10, 30, 100, 300, 1_000)
PROCESSES: Final = (1, 2, 4)
ROUND_S: Final = 3.0
#: Rounds of each number of processes.
TIMES: Final = 3
#: Of two systems in turn the last point is the one that is judged: so many rounds of each, rather short than few,
#: because a machine that others use too may do half as much a few seconds later.
PAIRS: Final = 7
PAIR_S: Final = 2.0
FILL_BATCH: Final = 100_000

#: Orders as they would have been stored: of three different SKUs each, spread over all of them, with their ledger.
FILL = """
WITH made AS (
    INSERT INTO shop_order (id, client, status, fingerprint, accepted_at, updated_at)
    SELECT md5('stored' || n)::uuid, 'stored', 'confirmed', md5(n::text),
           now() - interval '2 days', now() - interval '2 days'
    FROM generate_series(%(first)s::int, %(last)s::int) AS n
    RETURNING id, fingerprint, accepted_at
), taken AS (
    INSERT INTO shop_orderidentity (id, fingerprint, accepted_at) SELECT id, fingerprint, accepted_at FROM made
), line AS (
    INSERT INTO shop_orderline (order_id, position, sku, quantity)
    SELECT md5('stored' || n)::uuid, p, 'sku-' || lpad(((n * 617 + p * 331) %% 1000)::text, 6, '0'), 1
    FROM generate_series(%(first)s::int, %(last)s::int) AS n, generate_series(0, 2) AS p
    RETURNING order_id, sku, quantity
), sold AS (
    INSERT INTO shop_stockmovement (sku, kind, delta, order_id, client)
    SELECT sku, 'sale', -quantity, order_id, 'stored' FROM line
    RETURNING sku, delta
)
UPDATE shop_product AS product SET confirmed = product.confirmed + units
FROM (SELECT sku, -sum(delta) AS units FROM sold GROUP BY sku) AS total WHERE total.sku = product.sku
RETURNING product.sku, units::bigint
"""


def stored_orders(bench: Bench) -> None:
    """A system with more and more orders in PostgreSQL, beside an empty one. (Redis forgets orders after a day.)"""
    small = case(bench.reserva(SMALL))
    system = bench.reserva("growth, stored")
    grown = case(system)
    for cell in (small, grown):
        bench.warm_up(cell)
    stored = 0
    for size in STORED:
        fill(system, stored, size)
        stored = size
        _pair(bench, "stored", size, grown, small, is_last=size == STORED[-1])
    bench.stop(system.name)


def fill(system: Reserva, stored: int, size: int) -> None:
    """Have PostgreSQL hold `size` orders that were placed long ago, and Redis's counters agree."""
    for first in range(stored + 1, size + 1, FILL_BATCH):
        last = min(size, first + FILL_BATCH - 1)
        sold = system.database.execute(FILL, {"first": first, "last": last}).fetchall()
        pipeline = system.redis.pipeline()
        for sku, units in sold:
            pipeline.decrby(keys.stock(sku), units)
        pipeline.execute()
    # As autovacuum and the checkpointer would have left them by now.
    system.database.execute(
        "VACUUM (ANALYZE) shop_order, shop_orderidentity, shop_orderline, shop_stockmovement, shop_product"
    )
    system.database.execute("CHECKPOINT")


def skus(bench: Bench) -> None:
    """A system with more and more SKUs, ordered from all over its catalogue, beside one that has 1,000."""
    small = case(bench.reserva(SMALL))
    bench.warm_up(small)
    system = bench.reserva("growth, SKUs", skus=SKUS[0])
    on_sale = SKUS[0]
    for size in SKUS:
        if size > on_sale:
            system.put_on_sale({traffic.sku(n): traffic.PLENTY for n in range(on_sale, size)})
        on_sale = size
        grown = Case(
            system=system,
            scenario="spread",
            traffic=traffic.spread(skus=size),
            label=f"growth, {size:,} SKUs",
        )
        bench.warm_up(grown)
        _pair(bench, "skus", size, grown, small, is_last=size == SKUS[-1])
    bench.stop(system.name)


def lines(bench: Bench) -> None:
    """Orders of more and more lines."""
    system = bench.reserva(SMALL)
    for size in LINES:
        sized = Case(
            system=system,
            scenario=f"{size} lines",
            traffic=traffic.spread(lines=size),
            warm_orders=max(4, 200 // size),
        )
        bench.warm_up(sized)
        found = bench.round(sized, ROUND_S)
        keep(bench, "lines", point(size, [found]))


def processes(bench: Bench) -> None:
    """Several workers and web processes, each number as a system of its own, in turn."""
    plain = bench.reserva(SMALL)
    workers = {1: plain} | {n: bench.reserva(f"growth, {n} workers", WORKERS=str(n)) for n in (2, 4)}
    webs = {1: plain} | {n: bench.reserva(f"growth, {n} web", WEB_WORKERS=str(n)) for n in (2, 4)}
    curves = {
        "workers": {n: case(system) for n, system in workers.items()},
        "workers_hot": {
            n: Case(system=system, scenario="hot", traffic=traffic.hot) for n, system in workers.items()
        },
        "web": {n: case(system) for n, system in webs.items()},
    }
    for name, cells in curves.items():
        for cell in cells.values():
            bench.warm_up(cell)
        found: dict[int, list[Round]] = {n: [] for n in cells}
        for _ in range(TIMES):
            for n, cell in cells.items():
                found[n].append(bench.round(cell, ROUND_S))
        for n in PROCESSES:
            keep(bench, name, point(n, found[n]))
    for system in (*workers.values(), *webs.values()):
        if system is not plain:
            bench.stop(system.name)


def case(system: Reserva) -> Case:
    """Orders spread over 1,000 SKUs."""
    return Case(system=system, scenario="spread", traffic=traffic.spread())


def keep(bench: Bench, curve: str, found: Point) -> None:
    """Add a point to a curve, and say so."""
    bench.found.curves.setdefault(curve, []).append(found)
    beside = f" (beside it {found.beside:,.0f} at {found.beside_us:,.0f} us)" if found.beside else ""
    bench.say(
        f"{curve} at {found.x:,.0f}: {found.orders_per_s:,.0f} orders/s{beside}, "
        f"{found.lines_per_s:,.0f} lines/s, {found.cpu_us:,.0f} us per order"
    )


def _pair(bench: Bench, curve: str, x: float, grown: Case, small: Case, *, is_last: bool) -> None:
    found, beside = [], []
    times, seconds = (PAIRS, PAIR_S) if is_last else (1, ROUND_S)
    for number in range(times):
        # Each comes first as often as second.
        for case, rounds in ((small, beside), (grown, found))[:: 1 - 2 * (number % 2)]:
            rounds.append(bench.round(case, seconds))
    keep(bench, curve, point(x, found, beside))
