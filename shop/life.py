"""The life of an order, told from all that still knows of it: its row and movements in the books, its record in Redis.

For staff, who may see every client's orders. Nothing here changes anything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, overload

import msgspec
from django.db.models import Q

from shop import keys
from shop.domain import Line, Order, Reason, Status
from shop.models import Order as OrderRow
from shop.models import OrderLine, StockMovement, with_ids
from shop.stores import StoreUnavailable, TextRedis, store_faults

BOOKS, REDIS = "PostgreSQL", "Redis"
#: A worker notes when it decided by its own clock, PostgreSQL dates the movements by another one.
CLOCKS_APART = timedelta(seconds=5)

#: Lines that an event names; the tables beside it have all.
LINES_TOLD = 20

_document = msgspec.json.Decoder(Order)
_reason = msgspec.json.Decoder(Reason)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to an order. `at`: None where nobody noted when. `source`: who says so."""

    what: str
    source: str
    at: datetime | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What Redis knows of an order.

    `attempts`: how often it was begun. `next_look`: when the sweeper looks after it, None unless it is open.
    `cancel_asked`: since when it is to be cancelled. `locked`: its SKUs whose locks it has. `ttl_s`: seconds until
    Redis forgets it, None while it is open.
    """

    order: Order
    status: Status
    updated_at: datetime
    reason: Reason | None
    attempts: int
    is_cancelling: bool
    cancel_asked: datetime | None
    next_look: datetime | None
    locked: list[str]
    ttl_s: int | None

    @property
    def accepted_at(self) -> datetime:
        """When a web process took it in."""
        return _moment(self.order.accepted_at_ms)


@dataclass(frozen=True, kw_only=True)
class Life:
    """An order and what happened to it, in the order of time. `row`: None while it has not ended. `lines`: what was ordered.

    `record`: None where Redis has none, or is away.
    """

    id: str
    client: str
    status: Status
    customer: str | None
    reference: str | None
    accepted_at: datetime
    reason: Reason | None
    lines: list[Line]
    row: OrderRow | None
    record: Record | None
    redis_is_away: bool
    movements: list[StockMovement]
    events: list[Event]

    @property
    def is_open(self) -> bool:
        """Whether Redis still waits for its end: it may be put in line again."""
        return self.record is not None and self.record.status is Status.QUEUED

    @property
    def may_be_cancelled(self) -> bool:
        """Whether a wish to cancel it would be granted."""
        return self.status in (Status.QUEUED, Status.CONFIRMED)

    @property
    def disagreement(self) -> str:
        """What the stores say differently for the moment, or ''."""
        if self.row is None or self.record is None or self.record.status == self.row.status:
            return ""
        return (
            f"Redis says {self.record.status}, PostgreSQL {self.row.status}: that is true, and Redis follows."
        )


def of(order_id: str, client: TextRedis) -> Life | None:
    """The life of an order, None where neither store knows it. Raises `StoreUnavailable` where PostgreSQL is away."""
    record, is_away = None, False
    try:
        record = recorded([order_id], client).get(order_id)
    except StoreUnavailable:
        is_away = True
    with store_faults():
        row = with_ids(OrderRow.objects.all(), [order_id]).first()
        if row is None and record is None:
            return None
        movements = _movements(row) if row else []
        lines = _lines(row) if row else list(record.order.lines) if record else []
    return _told(order_id, row, record, lines, movements, is_away)


def _told(
    order_id: str,
    row: OrderRow | None,
    record: Record | None,
    lines: list[Line],
    movements: list[StockMovement],
    is_away: bool,
) -> Life:
    told: Any = row or (record and record.order)
    if row:
        accepted_at, reason = row.accepted_at, row.reason and msgspec.convert(row.reason, Reason)
        status = Status(row.status)
    else:
        assert record is not None
        accepted_at, reason = _moment(record.order.accepted_at_ms), record.reason
        status = record.status
    events = [
        Event(
            at=accepted_at,
            what="Accepted",
            detail=f"from {told.client}: recorded, its key claimed, and put in line",
            source=BOOKS if row else REDIS,
        ),
        *(_in_redis(record) if record else ()),
        *(_in_books(row, movements) if row else ()),
        *_published(row, record),
    ]
    return Life(
        id=order_id,
        client=told.client,
        status=status,
        customer=told.customer,
        reference=told.reference,
        accepted_at=accepted_at,
        reason=reason or None,
        lines=lines,
        row=row,
        record=record,
        redis_is_away=is_away,
        movements=movements,
        events=in_order_of_time(events),
    )


def _in_redis(record: Record) -> Iterator[Event]:
    if record.attempts:
        times = "once" if record.attempts == 1 else f"{record.attempts} times"
        yield Event(what="Begun", detail=f"by a worker, {times}", source=REDIS)
    if record.locked:
        yield Event(what="Reserved", detail=f"locks held: {', '.join(record.locked)}", source=REDIS)
    if record.is_cancelling:
        yield Event(
            at=record.cancel_asked,
            what="To be cancelled",
            detail="somebody asked for it; a worker sees to it",
            source=REDIS,
        )


def _in_books(row: OrderRow, movements: list[StockMovement]) -> Iterator[Event]:
    was_cancelled = row.status == Status.CANCELLED
    if not was_cancelled:
        why = _why(row.reason and msgspec.convert(row.reason, Reason))
        yield Event(at=row.updated_at, what=f"Decided: {row.status}", detail=why, source=BOOKS)
    elif row.decided_at:
        yield Event(at=row.decided_at, what="Decided: confirmed", source=BOOKS)
    yield from _moved(movements, StockMovement.Kind.SALE, "Sold")
    if was_cancelled:
        while_queued = "" if row.decided_at else "while it was queued; nothing had been taken"
        yield Event(at=row.updated_at, what="Cancelled", detail=while_queued, source=BOOKS)
        yield from _moved(movements, StockMovement.Kind.CANCELLATION, "Back on sale")


def _moved(movements: list[StockMovement], kind: str, what: str) -> Iterator[Event]:
    moved = [movement for movement in movements if movement.kind == kind]
    if moved:
        units = ", ".join(f"{movement.delta:+d} {movement.sku}" for movement in moved[:LINES_TOLD])
        more = f" and {len(moved) - LINES_TOLD} more" if len(moved) > LINES_TOLD else ""
        yield Event(at=moved[0].created_at, what=what, detail=units + more, source=BOOKS)


def _why(reason: Reason | None) -> str:
    if reason is None:
        return ""
    short = [f"{line.sku}: {line.requested} asked for, {line.available} free" for line in reason.lines]
    return "; ".join(
        [reason.code.value.replace("_", " "), *short, *([reason.detail] if reason.detail else [])]
    )


def _published(row: OrderRow | None, record: Record | None) -> Iterator[Event]:
    """Whether clients are told. Nobody notes when: milliseconds after the decision."""
    if record is not None and record.status is not Status.QUEUED:
        hours = f", for {record.ttl_s / 3600:.1f} h from now" if record.ttl_s is not None else ""
        yield Event(
            what=f"Settled: {record.status}",
            detail=f"published; clients read it from Redis{hours}",
            source=REDIS,
        )
    elif record is not None and row is not None:
        yield Event(what="Not settled yet", detail="decided, and not published in Redis", source=REDIS)


def in_order_of_time(events: Sequence[Event]) -> list[Event]:
    """Events sorted by time; what has no moment stays behind what it was told after."""
    moments: list[datetime] = []
    for event in events:
        moments.append(event.at or (moments[-1] if moments else datetime.min.replace(tzinfo=UTC)))
    return [event for _, _, event in sorted(zip(moments, range(len(events)), events, strict=True))]


def _lines(row: OrderRow) -> list[Line]:
    found = OrderLine.objects.filter(order_id=row.pk).order_by("position")
    return [Line(sku, quantity) for sku, quantity in found.values_list("sku", "quantity")]


def _movements(row: OrderRow) -> list[StockMovement]:
    """The order's movements: written together with its end, and with its cancellation."""
    if row.status != Status.CONFIRMED and not row.decided_at:
        return []
    when = Q()
    for moment in {row.decided_at or row.updated_at, row.updated_at}:
        when |= Q(created_at__range=(moment - CLOCKS_APART, moment + CLOCKS_APART))
    return list(StockMovement.objects.filter(when, order_id=row.pk).order_by("id"))


def recorded(order_ids: Sequence[str], client: TextRedis) -> dict[str, Record]:
    """What Redis knows of orders; those it does not know are left out. Raises `StoreUnavailable`."""
    with store_faults():
        pipe = client.pipeline(transaction=False)
        for order_id in order_ids:
            pipe.hgetall(keys.order(order_id))
            pipe.pttl(keys.order(order_id))
            pipe.zscore(keys.OPEN_ORDERS, order_id)
            pipe.zscore(keys.CANCELLATIONS, order_id)
        replies = iter(pipe.execute())
        found = [(order_id, *islice(replies, 4)) for order_id in order_ids]
        orders = {order_id: _order_in(record) for order_id, record, *_ in found}
        skus = sorted({sku for order in orders.values() if order for sku in order.skus})
        holders = dict(zip(skus, client.mget(map(keys.lock, skus)) if skus else (), strict=True))
    return {
        order_id: _record(order, holders, *known) for order_id, *known in found if (order := orders[order_id])
    }


def _record(
    order: Order,
    holders: dict[str, str | None],
    record: dict[str, str],
    ttl_ms: int,
    next_look_ms: float | None,
    cancel_asked_ms: float | None,
) -> Record:
    return Record(
        order=order,
        status=Status(record["status"]),
        updated_at=_moment(float(record["updated_at"])),
        reason=_reason.decode(record["reason"]) if record.get("reason") else None,
        attempts=int(record.get("attempts", 0)),
        is_cancelling="cancel" in record or cancel_asked_ms is not None,
        cancel_asked=_moment(cancel_asked_ms),
        next_look=_moment(next_look_ms),
        locked=[sku for sku in order.skus if holders[sku] == order.id],
        ttl_s=ttl_ms // 1000 if ttl_ms > 0 else None,
    )


def waiting(client: TextRedis, most: int) -> tuple[int, list[Record]]:
    """How many orders have no end yet, and those that the sweeper looks after first. Raises `StoreUnavailable`."""
    with store_faults():
        count = int(client.zcard(keys.OPEN_ORDERS))
        order_ids: list[str] = client.zrange(keys.OPEN_ORDERS, 0, most - 1)
    return count, list(recorded(order_ids, client).values())


def _order_in(record: dict[str, str]) -> Order | None:
    """None of what somebody has broken by hand."""
    try:
        return _document.decode(record["document"]) if "status" in record and "updated_at" in record else None
    except (msgspec.DecodeError, KeyError):
        return None


@overload
def _moment(unix_ms: float) -> datetime: ...
@overload
def _moment(unix_ms: None) -> None: ...
def _moment(unix_ms: float | None) -> datetime | None:
    return None if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC)
