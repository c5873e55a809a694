"""Stock movements asked for through the API: deliveries and corrections, each once per idempotency key.

PostgreSQL decides, by one statement that can't take what is confirmed, and Redis is told. Redis also keeps what was asked
for, as long as an order after its end: a PostgreSQL that went back may have lost it (`shop.recovery`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from django.conf import settings
from django.db import IntegrityError, transaction
from psycopg.errors import CheckViolation, UniqueViolation

from shop import keys, stock
from shop.books import Stock
from shop.stores import StoreUnavailable, TextRedis, rows, store_faults, uuid_array
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


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for, and the ids that its key may stand for, first the one that a new movement gets."""

    ids: tuple[str, ...]
    by: str
    sku: str
    delta: int
    reason: str

    def __str__(self) -> str:
        return f"stock movement {self.ids[0]} of {self.by}, {self.delta:+} of {self.sku} ({self.reason})"


_asked = msgspec.json.Decoder(Asked)
#: Movements of one look at Redis.
BATCH = 500


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
    asked = Asked(ids=(request, *ids_before), by=by, sku=sku, delta=delta, reason=reason)
    followed = stock.followed(client)
    if found := _written(client, asked):
        return found
    # Before it is written: were it noted afterwards, one that is sold from and lost could be unknown to Redis.
    _note(client, asked)
    try:
        with store_faults():
            reach("movement.before_books")
            written = _row_of(asked, followed.server)
            reach("movement.after_books")
    except IntegrityError as error:
        if isinstance(error.__cause__, UniqueViolation | CheckViolation) and (
            found := _written(client, asked)
        ):
            return found  # the same request, sent twice at once
        _forget(client, asked)
        if not isinstance(error.__cause__, CheckViolation):
            raise
        return Insufficient(_published(client, sku))
    if not written:
        # Its copy may have been written under another of its ids.
        _forget(client, asked)
        return _written(client, asked) or UnknownSku()
    ((created_at, version, free),) = written
    if not stock.publish(client, {sku: Stock(version=version, free=free)}, followed.epoch):
        raise StoreUnavailable("PostgreSQL went back after it had written the movement")
    return _movement(asked, request, created_at, available=free, fresh=True)


def _note(client: TextRedis, asked: Asked) -> None:
    with store_faults():
        client.set(keys.movement(asked.ids[0]), msgspec.json.encode(asked), ex=settings.ENDED_ORDERS_KEPT_S)


def _forget(client: TextRedis, asked: Asked) -> None:
    with store_faults():
        client.delete(keys.movement(asked.ids[0]))


def lost(client: TextRedis) -> Iterator[Asked]:
    """Movements that Redis remembers and PostgreSQL has not. Raises `StoreUnavailable`."""
    with store_faults():
        names = list(client.scan_iter(match=keys.movement("*"), count=BATCH))
    for at in range(0, len(names), BATCH):
        with store_faults():
            noted = [_asked.decode(text) for text in client.mget(names[at : at + BATCH]) if text]
            ids = [each for asked in noted for each in asked.ids]
            written = {request for request, *_ in rows("movement", requests=uuid_array(ids))}
        yield from (asked for asked in noted if written.isdisjoint(asked.ids))


def enter_again(asked: Asked) -> bool:
    """Write a movement that PostgreSQL has lost; False where it takes what is confirmed, or there is no such product.

    Redis is not told. Raises `StoreUnavailable`.
    """
    try:
        with store_faults():
            return bool(_row_of(asked, ""))
    except IntegrityError as error:
        if isinstance(error.__cause__, UniqueViolation):
            return True  # its client has sent it again
        if isinstance(error.__cause__, CheckViolation):
            return False
        raise


def _written(client: TextRedis, asked: Asked) -> Outcome | None:
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


def _row_of(asked: Asked, followed: str) -> list[tuple[Any, ...]]:
    """Write the movement; no row where the SKU does not exist, or a copy was written under another id.

    `followed`: the PostgreSQL that Redis follows; any other writes nothing, and is as good as unavailable.
    """
    request, *ids_before = asked.ids
    move = partial(_moved, asked, request, followed)
    if not ids_before:
        return move()
    # Two web processes with two secrets make two ids of one key, and the constraint that a request moves once sees one.
    with transaction.atomic():
        rows("movement_turn", requests=uuid_array(asked.ids))
        return [] if rows("movement", requests=uuid_array(ids_before)) else move()


def _moved(asked: Asked, request: str, followed: str) -> list[tuple[Any, ...]]:
    ((continues, *written),) = rows(
        "move",
        request=request,
        client=asked.by,
        sku=asked.sku,
        delta=asked.delta,
        reason=asked.reason,
        followed=followed,
    )
    if not continues:
        raise StoreUnavailable("this is not the PostgreSQL that Redis has followed")
    return [tuple(written)] if written[0] else []


def _movement(asked: Asked, request: str, created_at: datetime, *, available: int, fresh: bool) -> Movement:
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
    known = stock.refresh(client, [sku])[sku]
    return known.free if known else 0
