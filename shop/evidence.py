"""Evidence for the verdict on a crowd of orders: what PostgreSQL and Redis hold about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from django.db import close_old_connections, connection, transaction

from shop import keys
from shop.crowd import Purchase
from shop.domain import Line, Reason, Status
from shop.stores import TextRedis, rows, store_faults

#: Keys asked for in one round trip to Redis.
BATCH: Final = 1_000

_lines = msgspec.json.Decoder(tuple[Line, ...])
_reason = msgspec.json.Decoder(Reason)


@dataclass(frozen=True, kw_only=True)
class OrderRow:
    """An order in the books."""

    id: str
    client: str
    status: Status
    customer: str | None
    reference: str | None
    reason: Reason | None
    updated_at: datetime
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class SkuRow:
    """A product in the books, in units.

    `on_sale` and `confirmed` are its counters. `put_on_sale` and `sold` are the same by its movements, and
    `ordered` is what the lines of its confirmed orders add up to. `came_at`: when stock came last.
    """

    on_sale: int
    put_on_sale: int
    confirmed: int
    sold: int
    ordered: int
    came_at: datetime | None

    @property
    def left(self) -> int:
        """Units in no confirmed order."""
        return self.put_on_sale - self.ordered


@dataclass(frozen=True, kw_only=True)
class Books:
    """One snapshot of PostgreSQL. `strangers`: orders of other ids that came under the same references."""

    orders: Mapping[str, OrderRow]
    strangers: Sequence[OrderRow]
    skus: Mapping[str, SkuRow]

    def has_no_newer_stock(self, order: OrderRow) -> bool:
        """Whether no stock of the order's SKUs came after it ended."""
        came = (self.skus[line.sku].came_at for line in order.lines)
        return all(moment is None or moment < order.updated_at for moment in came)


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What Redis holds. `free` is as stored, None where a counter is missing.

    `states`, `open`: of the crowd's orders, those that Redis still knows. `ids`: the order id of each
    idempotency key that it remembers. `busy`: SKUs whose lock an order holds, so that units may be off their
    counter for the moment. `left`: locks that orders of the crowd still hold.
    """

    free: Mapping[str, str | None]
    states: Mapping[str, Status]
    open: frozenset[str]
    ids: Mapping[str, str]
    busy: frozenset[str]
    left: Sequence[str]


def read_books(purchases: Sequence[Purchase], skus: Sequence[str]) -> Books:
    """PostgreSQL's evidence. Raises `StoreUnavailable`."""
    answers = [answer for purchase in purchases for answer in purchase.answers]
    ids = {answer.id for answer in answers}
    # An order placed twice by mistake lies close to its twin. Later ones under the same reference are meant.
    margin = timedelta(seconds=1)
    # A crowd may have bought for hours: the connection from before may be dead.
    close_old_connections()
    with store_faults(), transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # Adding up the lines of a large history takes longer than any statement of the shop may.
            cursor.execute("SET LOCAL statement_timeout = 0")
        orders = rows(
            "judged_orders",
            ids=sorted(ids),
            since=min(answer.created_at for answer in answers) - margin,
            until=max(answer.updated_at for answer in answers) + margin,
            references=sorted({p.wish.reference for p in purchases if p.wish.reference}),
        )
        products = rows("judged_skus", skus=list(skus))
    found = [_order(row) for row in orders]
    return Books(
        orders={order.id: order for order in found if order.id in ids},
        strangers=[order for order in found if order.id not in ids],
        skus={sku: _sku(numbers) for sku, *numbers in products},
    )


def _order(row: tuple[Any, ...]) -> OrderRow:
    order_id, client, status, customer, reference, reason, updated_at, lines = row
    return OrderRow(
        id=order_id,
        client=client,
        status=Status(status),
        customer=customer,
        reference=reference,
        reason=_reason.decode(reason) if reason else None,
        updated_at=updated_at,
        lines=_lines.decode(lines) if lines else (),
    )


def _sku(numbers: Sequence[Any]) -> SkuRow:
    on_sale, put_on_sale, confirmed, sold, ordered, came_at = numbers
    return SkuRow(
        on_sale=on_sale,
        put_on_sale=put_on_sale,
        confirmed=confirmed,
        sold=sold,
        ordered=ordered,
        came_at=came_at,
    )


def read_counters(
    client: TextRedis, purchases: Sequence[Purchase], books: Books, skus: Sequence[str]
) -> Counters:
    """Redis's evidence. Raises `StoreUnavailable`."""
    ids = sorted({answer.id for purchase in purchases for answer in purchase.answers})
    owners = [(p.wish.key, row.client) for p in purchases if (row := books.orders.get(p.answers[0].id))]
    with store_faults():
        known = _each(client, "get", [(keys.idempotency(owner, key),) for key, owner in owners])
        states = _each(client, "hget", [(keys.order(order_id), "status") for order_id in ids])
        scores = _each(client, "zscore", [(keys.OPEN_ORDERS, order_id) for order_id in ids])
        locks = _each(client, "get", [(keys.lock(sku),) for sku in skus])
        free = _each(client, "get", [(keys.stock(sku),) for sku in skus])
    ours = frozenset(ids)
    left = [
        f"{keys.lock(sku)} of order {holder}"
        for sku, holder in zip(skus, locks, strict=True)
        if holder in ours
    ]
    return Counters(
        free=dict(zip(skus, free, strict=True)),
        states={order_id: Status(state) for order_id, state in zip(ids, states, strict=True) if state},
        open=frozenset(order_id for order_id, score in zip(ids, scores, strict=True) if score is not None),
        ids={key: order_id for (key, _), order_id in zip(owners, known, strict=True) if order_id},
        busy=frozenset(sku for sku, holder in zip(skus, locks, strict=True) if holder),
        left=left,
    )


def _each(client: TextRedis, command: str, calls: Sequence[tuple[str, ...]]) -> list[Any]:
    """The replies to one command with different arguments, many in one round trip."""
    replies: list[Any] = []
    for at in range(0, len(calls), BATCH):
        pipeline = client.pipeline(transaction=False)
        for arguments in calls[at : at + BATCH]:
            getattr(pipeline, command)(*arguments)
        replies += pipeline.execute()
    return replies
