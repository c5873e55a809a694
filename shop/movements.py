"""Stock movements asked for through the API: deliveries and corrections, each once per idempotency key.

PostgreSQL decides and Redis follows (`shop.stock`). A movement that lowers stock first takes the units off sale in Redis, as
an order would, so that it can't take what is promised.
"""

import secrets
import time
from dataclasses import dataclass, replace
from datetime import datetime

from django.db import IntegrityError
from psycopg.errors import CheckViolation, UniqueViolation

from shop import keys, scripts, stock
from shop.stores import StoreUnavailable, TextRedis, rows, store_faults
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


def move(*, client: TextRedis, request: str, by: str, sku: str, delta: int, reason: str) -> Outcome:
    """Change a SKU's stock by `delta` units. `request`: the id derived from `by` (the API client) and its key.

    Raises `StoreUnavailable`, also when the SKU stays locked; the same request may be sent again.
    """
    if found := _written(client, request, sku, delta, reason):
        return found
    try:
        with stock.locks(client, request, [sku], patience_s=LOCK_WAIT_S):
            if delta < 0 and (refusal := _withdraw(client, request, sku, -delta)):
                # A copy of this very request may have taken the units meanwhile.
                return _written(client, request, sku, delta, reason) or refusal
            return _write(client, request=request, by=by, sku=sku, delta=delta, reason=reason)
    except stock.Locked as locked:
        raise StoreUnavailable(str(locked)) from locked


def _written(client: TextRedis, request: str, sku: str, delta: int, reason: str) -> Outcome | None:
    """The movement this request already made, or another one made under its key."""
    with store_faults():
        found = rows("movement", request=request)
    if not found:
        return None
    was_sku, was_delta, was_reason, created_at = found[0]
    if (was_sku, was_delta, was_reason) != (sku, delta, reason):
        return KeyReused()
    made = Movement(
        id=request, sku=sku, delta=delta, reason=reason, created_at=created_at, available=0, fresh=False
    )
    return _brought_to_redis(client, made)


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


def _write(client: TextRedis, *, request: str, by: str, sku: str, delta: int, reason: str) -> Outcome:
    try:
        with store_faults():
            reach("movement.before_books")
            written = rows("move", request=request, client=by, sku=sku, delta=delta, reason=reason)
            reach("movement.after_books")
    except IntegrityError as error:
        if isinstance(error.__cause__, UniqueViolation | CheckViolation) and (
            found := _written(client, request, sku, delta, reason)
        ):
            return found  # the same request, sent twice at once
        if not isinstance(error.__cause__, CheckViolation):
            raise
        # The books have fewer units than Redis said: Redis is wrong, and is loaded afresh.
        stock.unload(client, [sku])
        _give_back(client, request)
        return Insufficient(_available(client, sku))
    if not written:
        _give_back(client, request)
        return UnknownSku()
    made = Movement(
        id=request, sku=sku, delta=delta, reason=reason, created_at=written[0][0], available=0, fresh=True
    )
    return _brought_to_redis(client, made)


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
