"""Stock movements asked for through the API: deliveries and corrections, each once per idempotency key.

PostgreSQL decides and Redis follows (`shop.stock`). A movement that lowers stock first takes the units off sale in Redis, as
an order would, so that it can't take what is promised.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from django.db import IntegrityError, transaction
from psycopg.errors import CheckViolation, UniqueViolation

from shop import keys, scripts, stock
from shop.stores import StoreUnavailable, TextRedis, rows, store_faults, uuid_array
from workers.fail_points import reach

#: How long a movement waits for the SKU's lock. Shorter than a client waits for an answer.
LOCK_WAIT_S = 1.5


@dataclass(frozen=True, kw_only=True)
class Movement:
    """A movement in the books. `available`: units free to sell right after; `fresh`: it was written just now."""

    id: str
    sku: str
    delta: int
    reason: str
    created_at: datetime
    available: int
    fresh: bool


@dataclass(frozen=True)
class Insufficient:
    """The movement would take units that are promised; so many are free."""

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
    Raises `StoreUnavailable`, also when the SKU stays locked; the same request may be sent again.
    """
    asked = _Asked(ids=(request, *ids_before), by=by, sku=sku, delta=delta, reason=reason)
    if found := _written(client, asked):
        return found
    try:
        with stock.locks(client, request, [sku], patience_s=LOCK_WAIT_S):
            if delta < 0 and (refusal := _withdraw(client, request, sku, -delta)):
                # A copy of this very request may have taken the units meanwhile.
                return _written(client, asked) or refusal
            return _write(client, asked)
    except stock.Locked as locked:
        raise StoreUnavailable(str(locked)) from locked


def _written(client: TextRedis, asked: _Asked) -> Outcome | None:
    """The movement this request already made, or another one made under its key."""
    with store_faults():
        found = rows("movement", requests=uuid_array(asked.ids))
    if not found:
        return None
    request, *was, created_at = found[0]
    if was != [asked.sku, asked.delta, asked.reason]:
        return KeyReused()
    return _brought_to_redis(client, _movement(asked, request, created_at, fresh=False))


def _withdraw(client: TextRedis, request: str, sku: str, units: int) -> Outcome | None:
    """Take units off sale before the books are asked; a reason not to, or None."""
    args = [request, secrets.token_hex(8), int(time.time() * 1000), sku, units]
    while True:
        with store_faults():
            reply = scripts.run(client, "withdraw", [keys.stock(sku), keys.RESERVATIONS], args)
        match reply:
            case ["reserved", _]:
                return None
            case ["short", free]:
                return Insufficient(max(0, int(free)))
            case _:
                if sku in stock.load(client, [sku]):
                    return UnknownSku()


def _write(client: TextRedis, asked: _Asked) -> Outcome:
    request = asked.ids[0]
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
        # The books have fewer units than Redis said: Redis is wrong, and is loaded afresh.
        stock.unload(client, [asked.sku])
        _give_back(client, request)
        return Insufficient(_available(client, asked.sku))
    if not written:
        _give_back(client, request)
        # Its copy may have been written under another of its ids.
        return _written(client, asked) or UnknownSku()
    return _brought_to_redis(client, _movement(asked, request, written[0][0], fresh=True))


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


def _movement(asked: _Asked, request: str, created_at: datetime, *, fresh: bool) -> Movement:
    return Movement(
        id=request,
        sku=asked.sku,
        delta=asked.delta,
        reason=asked.reason,
        created_at=created_at,
        available=0,
        fresh=fresh,
    )


def _brought_to_redis(client: TextRedis, made: Movement) -> Movement:
    """Let Redis follow the books; also for a movement made before, whose process may have died before this step."""
    stock.sync_levels(client, [made.sku], reservation=made.id)
    return replace(made, available=_available(client, made.sku))


def _give_back(client: TextRedis, request: str) -> None:
    with store_faults():
        scripts.run(client, "give_back", [keys.RESERVATIONS], [request, ""])


def _available(client: TextRedis, sku: str) -> int:
    stock.load(client, [sku])
    with store_faults():
        return max(0, int(client.get(keys.stock(sku)) or 0))
