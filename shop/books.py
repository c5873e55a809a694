"""What PostgreSQL decides about orders. A row, once written, is the truth; Redis follows it."""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Any

import msgspec
from django.db import DatabaseError, DataError, IntegrityError
from psycopg.errors import UniqueViolation

from shop.domain import Order, Reason, Status
from shop.stores import RowHeld, StoreUnavailable, rows, store_faults
from workers.fail_points import reach

_json = msgspec.json.Encoder()

#: The constraint by which an order is there once.
IDENTITY = "shop_orderidentity_pkey"
#: How often orders are asked about that another call decides at the same moment.
DECIDE_TRIES = 3
#: A decision holds rows for milliseconds. Whoever holds one for longer is not waited for.
ROW_PATIENCE_S = 0.2


class Intent(StrEnum):
    """What is asked of PostgreSQL for an order.

    To take its units, or reject it; to say whether Redis is right that a line is short; to book it again, or leave it
    undecided; or to write an end that takes no units.
    """

    TAKE = "take"
    SHORT = "short"
    BOOK = "book"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    FAILED = "failed"


#: Those whose product rows are locked.
_TAKING = (Intent.TAKE, Intent.BOOK)


@dataclass(frozen=True, kw_only=True)
class Question:
    """An order to be decided. `reason`: of an end that is given."""

    order: Order
    intent: Intent
    reason: Reason | None = None


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What PostgreSQL has of an order, whoever wrote it. `since_ms`: Unix time since when it is so."""

    status: Status
    since_ms: int
    reason: Reason | None
    fingerprint: str


@dataclass(frozen=True)
class Blocked:
    """Another transaction holds the row of this SKU: the order has not been decided."""

    sku: str


@dataclass(frozen=True)
class Again:
    """Redis called the order short, and PostgreSQL has the units: reserve again."""


@dataclass(frozen=True, kw_only=True)
class Stock:
    """What PostgreSQL has of a SKU. `version`: grows with each change; `free`: units in no confirmed order."""

    version: int
    free: int


@dataclass(kw_only=True)
class Decisions:
    """What became of orders, by their ids, and the stock of their SKUs afterwards: None where there is no such product."""

    outcomes: "dict[str, Recorded | Blocked | Again | Refused]" = field(default_factory=dict)
    stock: dict[str, Stock | None] = field(default_factory=dict)


class Refused(Exception):
    """PostgreSQL takes none of these orders, for what one of them is: text or a number that it can't store."""


def decide(questions: Sequence[Question], *, followed: str = "") -> Decisions:
    """Decide orders in one transaction, in this order: all of them, or none and `Refused`.

    `followed`: the PostgreSQL that Redis follows; any other decides nothing, and is as good as unavailable.

    An order that has a row already keeps it, and its row is what is returned: of two workers with one order, the second
    learns what the first decided. Raises `StoreUnavailable` with nothing known; asking again is safe.
    """
    if not questions:
        return Decisions()
    totals, skus = _wanted(questions)
    now_ms = int(time.time() * 1000)
    reach("worker.before_commit")
    with store_faults():
        ((*columns,),) = _asked(_parameters(questions, skus, totals, now_ms) | {"followed": followed})
    reach("worker.after_commit")
    *decided, versions, free = (msgspec.json.decode(column) for column in columns)
    return Decisions(
        outcomes={q.order.id: _outcome(*each) for q, *each in zip(questions, *decided, strict=True)},
        stock={sku: _stock(*each) for sku, *each in zip(skus, versions, free, strict=True)},
    )


def _asked(parameters: dict[str, object]) -> list[tuple[Any, ...]]:
    for tries_left in reversed(range(DECIDE_TRIES)):
        try:
            return rows("decide", are_new=tries_left == DECIDE_TRIES - 1, **parameters)
        except (IntegrityError, DataError) as error:
            if not _has_met_another(error):
                raise Refused(str(error)) from error
            if not tries_left:
                raise StoreUnavailable(f"PostgreSQL: {error}") from error
    raise AssertionError("the last try returns or raises")


def _has_met_another(error: DatabaseError) -> bool:
    """Whether an order had been decided that was taken for new."""
    violated = error.__cause__
    return isinstance(violated, UniqueViolation) and violated.diag.constraint_name == IDENTITY


def _outcome(
    outcome: str, since_ms: int, reason: object, fingerprint: str, sku: str | None
) -> Recorded | Blocked | Again:
    if outcome == "again":
        return Again()
    if outcome == "blocked":
        return Blocked(sku or "")
    return Recorded(
        status=Status(outcome),
        since_ms=since_ms,
        reason=msgspec.convert(reason, Reason) if reason else None,
        fingerprint=fingerprint,
    )


def _stock(version: int | None, free: int | None) -> Stock | None:
    return None if version is None or free is None else Stock(version=version, free=free)


def _wanted(questions: Sequence[Question]) -> tuple[dict[str, int], list[str]]:
    """The units that are to be taken of each SKU; and all SKUs, each once, these first."""
    totals: dict[str, int] = {}
    others: dict[str, None] = {}
    for question in questions:
        for line in question.order.lines:
            if question.intent in _TAKING:
                totals[line.sku] = totals.get(line.sku, 0) + line.quantity
            else:
                others[line.sku] = None
    return totals, [*totals, *(sku for sku in others if sku not in totals)]


def _parameters(
    questions: Sequence[Question], skus: Sequence[str], totals: dict[str, int], now_ms: int
) -> dict[str, object]:
    orders = [question.order for question in questions]
    places = {sku: place for place, sku in enumerate(skus, start=1)}
    sizes = [len(order.lines) for order in orders]
    lines = [line for order in orders for line in order.lines]
    return {
        "ids": _plain(order.id for order in orders),
        "clients": _array(order.client for order in orders),
        "intents": _plain(question.intent for question in questions),
        "customers": _array(order.customer for order in orders),
        "references": _array(order.reference for order in orders),
        "fingerprints": _array(order.fingerprint for order in orders),
        "reasons": _array(_json.encode(q.reason).decode() if q.reason else None for q in questions),
        "accepted_ms": _plain(order.accepted_at_ms for order in orders),
        "line_ends": _plain(accumulate(sizes)),
        "line_orders": _plain(at for at, size in enumerate(sizes, 1) for _ in range(size)),
        "positions": _plain(at for size in sizes for at in range(size)),
        "line_skus": _array(line.sku for line in lines),
        "line_places": _plain(places[line.sku] for line in lines),
        "quantities": _plain(line.quantity for line in lines),
        "skus": _array(skus),
        "to_lock": len(totals),
        "totals": _plain(totals.values()),
        "ended_ms": now_ms,
    }


def _plain(elements: Iterable[object]) -> str:
    """PostgreSQL's text form of an array whose elements need no quotes."""
    return f"{{{','.join(map(str, elements))}}}"


def _array(elements: Iterable[str | None]) -> str:
    """PostgreSQL's text form of an array (its documentation, 8.15.6); the driver takes ten times as long for it."""
    quoted = (
        "NULL" if element is None else '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for element in elements
    )
    return "{" + ",".join(quoted) + "}"


def recorded(ids: Sequence[str]) -> dict[str, Recorded]:
    """What PostgreSQL has of these orders; those without a row are left out. Raises `StoreUnavailable`."""
    if not ids:
        return {}
    with store_faults():
        return {
            str(order_id): Recorded(
                status=Status(status),
                since_ms=round(updated_at.timestamp() * 1000),
                reason=msgspec.convert(_loaded(reason), Reason) if reason else None,
                fingerprint=fingerprint,
            )
            for order_id, status, updated_at, reason, fingerprint in rows("recorded", ids=list(ids))
        }


def _loaded(reason: Any) -> object:
    return msgspec.json.decode(reason) if isinstance(reason, str) else reason


def stock_of(skus: Sequence[str]) -> dict[str, Stock | None]:
    """What PostgreSQL has of SKUs; None where there is no such product. Raises `StoreUnavailable`."""
    if not skus:
        return {}
    with store_faults():
        found = rows("stock", skus=list(skus))
    known = {sku: Stock(version=version, free=free) for sku, version, free in found}
    return {sku: known.get(sku) for sku in skus}


def cancel(order_id: str) -> None:
    """Mark a confirmed order cancelled and return its units, once. Without a row, or with another end, nothing changes.

    Raises `StoreUnavailable`, and `RowHeld` where a row was not to be had within `ROW_PATIENCE_S`.
    """
    until = time.monotonic() + ROW_PATIENCE_S
    while True:
        with store_faults():
            ((is_cancelled, was_confirmed),) = rows("cancel", id=order_id)
        if is_cancelled or not was_confirmed:
            return
        if time.monotonic() > until:
            raise RowHeld(f"another transaction holds a row that order {order_id} needs")
        time.sleep(random.uniform(0.002, 0.01))


def skus_of(order_id: str) -> list[str]:
    """The SKUs of an order that has a row. Raises `StoreUnavailable`."""
    with store_faults():
        return [sku for (sku,) in rows("order_skus", id=order_id)]
