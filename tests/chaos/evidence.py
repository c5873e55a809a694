"""What both stores and the API say when all is at rest: what the checker holds the history against."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shop import keys
from tests.chaos.site import Site

#: Keys asked for in one round trip to Redis.
BATCH: Final = 1_000

_ORDERS: Final = """
SELECT o.id::text, o.status, coalesce(o.reference, ''), extract(epoch FROM pg_xact_commit_timestamp(o.xmin))::float8,
       (SELECT json_agg(json_build_array(l.sku, l.quantity)) FROM shop_orderline AS l WHERE l.order_id = o.id)
FROM shop_order AS o
"""
_MOVES: Final = "SELECT reason, sku, delta FROM shop_stockmovement WHERE kind = 'adjustment'"
_OPENINGS: Final = (
    "SELECT sku, sum(delta)::bigint FROM shop_stockmovement WHERE kind = 'opening' GROUP BY sku"
)
_SALES: Final = """
SELECT order_id::text, sum(-delta) FILTER (WHERE kind = 'sale')::bigint,
       coalesce(sum(delta) FILTER (WHERE kind = 'cancellation'), 0)::bigint
FROM shop_stockmovement WHERE order_id IS NOT NULL GROUP BY order_id
"""

#: What the supervisor tells of a process that was neither killed nor asked to end.
_GAVE_UP: Final = re.compile(r"\S+ ended with exit status [1-9]\d*")

Lines = Sequence[tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class OrderRow:
    """An order in the books. `committed_at`: Unix time of its last change, None where PostgreSQL forgot it.

    `sold`, `returned`: its units by the ledger of stock movements.
    """

    status: str
    reference: str
    lines: Lines
    committed_at: float | None
    sold: int = 0
    returned: int = 0


@dataclass(frozen=True, kw_only=True)
class Product:
    """A SKU: its counters in PostgreSQL, and what Redis has as free to sell (None: no counter)."""

    opening: int
    on_sale: int
    confirmed: int
    free: str | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Orders by id, SKUs, movements by the reason they were given, and what is left behind.

    `told`: the states of orders over HTTP. `in_redis`: the states of orders that Redis still knows.
    `errors_asked_for`: how often a fail point raised one in the web tier. `gave_up`: processes that ended by an error.
    """

    orders: Mapping[str, OrderRow]
    products: Mapping[str, Product]
    movements: Sequence[tuple[str, str, int]]
    told: Mapping[str, str]
    in_redis: Mapping[str, str]
    left: Sequence[str] = field(default_factory=list)
    errors_asked_for: int = 0
    gave_up: Sequence[str] = field(default_factory=list)


def collect(site: Site, told: Mapping[str, str], skus: Sequence[str]) -> Evidence:
    """Read everything. `told`: states of orders over HTTP, read before."""
    books: Any = site.database
    sales = {order_id: (sold or 0, returned) for order_id, sold, returned in books.execute(_SALES)}
    orders = {
        order_id: OrderRow(
            status=status,
            reference=reference,
            lines=[(sku, units) for sku, units in lines or ()],
            committed_at=committed_at,
            sold=sales.get(order_id, (0, 0))[0],
            returned=sales.get(order_id, (0, 0))[1],
        )
        for order_id, status, reference, committed_at, lines in books.execute(_ORDERS)
    }
    return Evidence(
        orders=orders,
        products=_products(site, skus),
        movements=list(books.execute(_MOVES)),
        told=told,
        in_redis=_states(site, list(told)),
        left=left_behind(site),
        errors_asked_for=site.web_log.count("FailPointReached: "),
        gave_up=_GAVE_UP.findall(site.up_log),
    )


def _products(site: Site, skus: Sequence[str]) -> dict[str, Product]:
    openings: dict[str, int] = dict(site.database.execute(_OPENINGS).fetchall())
    rows = site.database.execute(
        "SELECT sku, on_sale, confirmed FROM shop_product WHERE sku = ANY(%s)", [list(skus)]
    )
    counters = {sku: (on_sale, confirmed) for sku, on_sale, confirmed in rows}
    free: list[Any] = list(site.redis.mget([keys.stock(sku) for sku in skus]))
    return {
        sku: Product(
            opening=openings.get(sku, 0),
            on_sale=counters[sku][0],
            confirmed=counters[sku][1],
            free=left,
        )
        for sku, left in zip(skus, free, strict=True)
    }


def _states(site: Site, ids: Sequence[str]) -> dict[str, str]:
    states: dict[str, str] = {}
    for at in range(0, len(ids), BATCH):
        some = ids[at : at + BATCH]
        pipe = site.redis.pipeline(transaction=False)
        for order_id in some:
            pipe.hget(keys.order(order_id), "status")
        found = zip(some, pipe.execute(), strict=True)
        states |= {order_id: state for order_id, state in found if state}
    return states


def left_behind(site: Site) -> list[str]:
    """Locks and entries of the journal: none of them is there at rest."""
    left = [f"{name}" for name in site.redis.scan_iter(match=keys.lock("*"), count=1000)]
    left += [f"order {order_id} in the journal" for order_id in site.redis.zrange(keys.OPEN_ORDERS, 0, -1)]
    left += [
        f"cancellation of {order_id} to be done" for order_id in site.redis.zrange(keys.CANCELLATIONS, 0, -1)
    ]
    return left
