"""The end of a run: everything healed, what was begun finished, and a last look at each SKU and at old keys."""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from random import Random
from typing import Final

import psycopg
import redis

from shop import keys
from tests.chaos.asking import Buyer, Lines
from tests.chaos.evidence import left_behind
from tests.chaos.history import ENDED, FAIL, OK, Operation
from tests.chaos.site import Site

#: After the last fault, everything has ended by then.
REST_MAX_S: Final = 120.0
#: Keys that are sent once more, to see that they still stand for the same orders.
REPEATED: Final = 300
#: An edited counter is met by demand so many times at most.
MEETINGS: Final = 20
POLL_S: Final = 0.1


class NoRest(Exception):
    """Something is still under way long after the last fault."""


def heal_everything(site: Site) -> None:
    """Whatever a fault may have left when the run was broken off."""
    site.redis_proxy.heal()
    site.postgres_proxy.heal()
    for server in (site.redis_server, site.postgres_server):
        site.revive(server)
    site.redis.config_set("maxmemory", 0)
    with suppress(psycopg.Error), site.books() as books:
        books.execute("ALTER SYSTEM RESET default_transaction_read_only")
        books.execute("SELECT pg_reload_conf()")
    site.database.close()
    site.database = site.connect()


def wait_for_rest(site: Site) -> float:
    """Wait until nothing is under way any more; seconds. Raises NoRest."""
    began = time.monotonic()
    left = ["Redis has not answered"]
    while left:
        if time.monotonic() - began > REST_MAX_S:
            raise NoRest(f"after {REST_MAX_S:g} s: {len(left)} left, for example {left[0]}")
        time.sleep(POLL_S)
        with suppress(redis.RedisError):
            left = left_behind(site)
    return time.monotonic() - began


def last_orders(
    site: Site, buyer: Buyer, skus: Sequence[str], operations: Sequence[Operation], seed: int
) -> None:
    """Meet edited counters with demand, order one unit of each SKU so that its counter is written, repeat old keys."""
    for sku in sorted(site.raised_skus):
        _meet(site, buyer, sku)
    for sku in skus:
        _buy(buyer, f"last-{sku}", ((sku, 1),))
    accepted = _wishes(operations)
    for key in Random(seed).sample(sorted(accepted), min(REPEATED, len(accepted))):
        _buy(buyer, key, accepted[key])


def _wishes(operations: Iterable[Operation]) -> dict[str, Lines]:
    """What each key stands for; not of keys that came for two orders, of which a fault may have destroyed either."""
    wishes: dict[str, set[Lines]] = {}
    for one in operations:
        if one.op == "order" and one.outcome == OK:
            wishes.setdefault(one.key, set()).add(one.lines)
    return {key: lines for key, (lines, *others) in wishes.items() if not others}


def _meet(site: Site, buyer: Buyer, sku: str) -> None:
    """Order all that Redis says is free, until it says what PostgreSQL says."""
    for number in range(MEETINGS):
        wait_for_rest(site)
        row = site.database.execute(
            "SELECT on_sale - confirmed FROM shop_product WHERE sku = %s", [sku]
        ).fetchone()
        free = int(site.redis.get(keys.stock(sku)) or 0)
        if not row or free <= row[0]:
            return
        _buy(buyer, f"all-of-{sku}-{number}-{time.time():.0f}", ((sku, free),))


def _buy(buyer: Buyer, key: str, lines: Lines) -> None:
    """Place an order and wait for its end."""
    placed = buyer.place(key, lines)
    deadline = time.monotonic() + REST_MAX_S
    while placed.outcome != OK or placed.state not in ENDED:
        if placed.outcome == FAIL or time.monotonic() > deadline:
            raise NoRest(f"the last order of {lines} does not end: {placed}")
        placed = buyer.poll(placed.id) if placed.outcome == OK else buyer.place(key, lines)
