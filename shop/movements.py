"""Stock movements asked for through the API: deliveries and corrections, each once per idempotency key.

PostgreSQL decides, by one statement that can't take what is confirmed, and Redis is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.db import IntegrityError, transaction
from psycopg.errors import CheckViolation, UniqueViolation

from shop import books, stock
from shop.books import Stock
from shop.stores import TextRedis, rows, store_faults, uuid_array
from workers.fail_points import reach


@dataclass(frozen=True, kw_only=True)
class Movement:
    """A movement in PostgreSQL. `available`: units free to sell right after; `fresh`: it was written just now."""

    id: str
    sku: str
    delta: int
    reason: str
    created_at: datetime
    available: int
    fresh: bool


@dataclass(frozen=True)
class Insufficient:
    """The movement would take units that are confirmed; so many are free."""

    available: int


@dataclass(frozen=True)
class UnknownSku:
    """There is no such product."""


@dataclass(frozen=True)
class KeyReused:
    """The idempotency key stands for another movement."""


Outcome = Movement | Insufficient | UnknownSku | KeyReused


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a request asks for, and the ids that its key may stand for, first the one that a new movement gets."""

    ids: tuple[str, ...]
    by: str
    sku: str
    delta: int
    reason: str


def move(
    *,
    client: TextRedis,
    request: str,
    ids_before: Sequence[str] = (),
    by: str,
    sku: str,
    delta: int,
    reason: str,
) -> Outcome:
    """Change a SKU's stock by `delta` units. `request`: the id derived from `by` (the API client) and its key.

    `ids_before`: those that other secrets derive from them (`shop.intake.ids_before`): the same request.
    Raises `StoreUnavailable`; the same request may be sent again.
    """
    asked = _Asked(ids=(request, *ids_before), by=by, sku=sku, delta=delta, reason=reason)
    if found := _written(client, asked):
        return found
    try:
        with store_faults():
            reach("movement.before_books")
            written = _row_of(asked)
            reach("movement.after_books")
    except IntegrityError as error:
        if isinstance(error.__cause__, UniqueViolation | CheckViolation) and (
            found := _written(client, asked)
        ):
            return found  # the same request, sent twice at once
        if not isinstance(error.__cause__, CheckViolation):
            raise
        return Insufficient(_published(client, sku))
    if not written:
        # Its copy may have been written under another of its ids.
        return _written(client, asked) or UnknownSku()
    ((created_at, version, free),) = written
    stock.publish(client, {sku: Stock(version=version, free=free)})
    return _movement(asked, request, created_at, available=free, fresh=True)


def _written(client: TextRedis, asked: _Asked) -> Outcome | None:
    """The movement this request already made, or another one made under its key."""
    with store_faults():
        found = rows("movement", requests=uuid_array(asked.ids))
    if not found:
        return None
    request, *was, created_at = found[0]
    if was != [asked.sku, asked.delta, asked.reason]:
        return KeyReused()
    # The process that made it may have died before Redis was told.
    return _movement(asked, request, created_at, available=_published(client, asked.sku), fresh=False)


def _row_of(asked: _Asked) -> list[tuple[Any, ...]]:
    """Write the movement; no row where the SKU does not exist, or a copy was written under another id."""
    request, *ids_before = asked.ids
    move = partial(
        rows, "move", request=request, client=asked.by, sku=asked.sku, delta=asked.delta, reason=asked.reason
    )
    if not ids_before:
        return move()
    # Two web processes with two secrets make two ids of one key, and the constraint that a request moves once sees one.
    with transaction.atomic():
        rows("movement_turn", requests=uuid_array(asked.ids))
        return [] if rows("movement", requests=uuid_array(ids_before)) else move()


def _movement(asked: _Asked, request: str, created_at: datetime, *, available: int, fresh: bool) -> Movement:
    return Movement(
        id=request,
        sku=asked.sku,
        delta=asked.delta,
        reason=asked.reason,
        created_at=created_at,
        available=available,
        fresh=fresh,
    )


def _published(client: TextRedis, sku: str) -> int:
    """The units that are free now, which Redis is told, too."""
    found = books.stock_of([sku])
    stock.publish(client, found)
    known = found[sku]
    return known.free if known else 0
