"""Taking orders in: one idempotency key, one order, recorded and on the queue before the client hears of it."""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import msgspec
import structlog
from django.conf import settings

from shop import figures, keys, queue, scripts
from shop.domain import Line, Order, summed
from shop.round_trips import RoundTrips
from shop.stores import BrokenKey, RedisLine, StoreUnavailable, order_database, store_faults, uuid_array
from shop.tracing import tracing
from workers.fail_points import reach

log = structlog.get_logger()
_json = msgspec.json.Encoder()


@dataclass(frozen=True)
class Accepted:
    """A new order: recorded, and on its way."""

    word: ClassVar = "accepted"

    id: str


@dataclass(frozen=True)
class Replayed:
    """The key's order exists and is this one."""

    word: ClassVar = "replayed"

    id: str


@dataclass(frozen=True)
class Reused:
    """The key's order exists and is a different one."""

    word: ClassVar = "reused"

    id: str


@dataclass(frozen=True)
class RateLimited:
    """The client is over its rate; in so many milliseconds it has room for one order."""

    word: ClassVar = "rate_limited"

    wait_ms: int


@dataclass(frozen=True)
class QueueFull:
    """More orders are waiting than `QUEUE_LIMIT` allows."""

    word: ClassVar = "queue_full"


@dataclass(frozen=True)
class IntakePaused:
    """No new orders are taken at present (`shop.pauses`)."""

    word: ClassVar = "paused"


Intake = Accepted | Replayed | Reused | RateLimited | QueueFull | IntakePaused
_REFUSED = {refused.word: refused for refused in (QueueFull(), IntakePaused())}


@cache
def _secret() -> bytes:
    return hashlib.sha256(settings.ORDER_ID_SECRET.encode()).digest()


def derived_id(purpose: str, client: str, key: str) -> str:
    """The UUID (version 8, RFC 9562) that stands for a client's idempotency key.

    It is a keyed hash, so it can't be guessed, and it is the same whenever the same key comes again: after Redis lost the
    key, the order still meets its own row in PostgreSQL.
    """
    digest = hashlib.blake2b(
        f"{purpose}\0{client}\0{key}".encode(), digest_size=16, key=_secret()
    ).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:]}"


def fingerprint(lines: tuple[Line, ...], customer: str | None, reference: str | None) -> str:
    """What an order means, as a digest: the order of lines does not matter, split lines were summed before."""
    meaning = _json.encode((sorted((line.sku, line.quantity) for line in lines), customer, reference))
    return hashlib.blake2b(meaning, digest_size=16).hexdigest()


def new_order(
    *, client: str, key: str, lines: list[Line], customer: str | None, reference: str | None, now_ms: int
) -> Order:
    """The order a request asks for."""
    total = summed(lines)
    return Order(
        id=derived_id("order", client, key),
        client=client,
        lines=total,
        fingerprint=fingerprint(total, customer, reference),
        accepted_at_ms=now_ms,
        customer=customer,
        reference=reference,
    )


async def accept(order: Order, key: str, deadline: float) -> Intake:
    """Accept an order under its idempotency key. Raises `StoreUnavailable` when that can't be known by the deadline."""
    try:
        answer = await _intake.ask((tracing.attached(order), key), deadline)
        if isinstance(answer, BrokenKey):
            raise answer
    except Exception:
        structlog.contextvars.bind_contextvars(order=order.id)  # for whoever logs it
        raise
    tracing.taken_in(answer.word, getattr(answer, "id", ""))
    if settings.LOG_ORDERS:
        log.info("order taken in", order=order.id, client=order.client, answer=type(answer).__name__)
    return answer


async def _accept(asked: Sequence[tuple[Order, str]]) -> list[Intake | BrokenKey]:
    """Accept orders: ask the books about keys Redis may have forgotten, then claim, record and enqueue."""
    known = await _in_books([order for order, _ in asked])
    answers: dict[int, Intake | BrokenKey] = {}
    for at, (order, _) in enumerate(asked):
        if found := known.get(order.id):
            answers[at] = Replayed(order.id) if found == order.fingerprint else Reused(order.id)
    claims = [at for at in range(len(asked)) if at not in answers]
    if claims:
        replies = await _claim([asked[at] for at in claims])
        answers |= dict(zip(claims, replies, strict=True))
    words = (answer.word for answer in answers.values() if not isinstance(answer, BrokenKey))
    figures.tally.add_all(Counter(figures.INTAKE + word for word in words))
    return [answers[at] for at in range(len(asked))]


_line = RedisLine()
#: At most so many orders in one script call, which is some milliseconds of Redis. With half as many, one process keeps up
#: with 3,000 orders/s only while both stores together answer within 20 ms.
_intake = RoundTrips(_accept, most=128)


async def close() -> None:
    """Close this module's connection."""
    await _line.close()


async def _in_books(orders: list[Order]) -> dict[str, str]:
    """Fingerprints of orders that ended: Redis forgets them after a day, or with its data.

    Without PostgreSQL the order is accepted all the same: should it exist, its worker meets the row and changes nothing.
    """
    try:
        return dict(await order_database.rows("fingerprints", ids=uuid_array(order.id for order in orders)))
    except StoreUnavailable:
        return {}


async def _claim(orders: list[tuple[Order, str]]) -> list[Intake | BrokenKey]:
    now_ms = int(time.time() * 1000)
    names = [keys.OPEN_ORDERS, queue.broker_key()]
    args: list[Any] = [
        now_ms,
        keys.DAY_S,
        settings.QUEUE_LIMIT,
        settings.ORDER_RATE_LIMIT,
        now_ms + settings.SWEEP_AFTER_MS,
    ]
    for order, key in orders:
        names += [keys.idempotency(order.client, key), keys.order(order.id), keys.rate(order.client)]
        document = _json.encode(order)
        message = queue.fulfil_message_of(order.id, document) if queue.BROKER_IS_LEDGER else ""
        args += [order.id, order.fingerprint, order.client, document, message]
    reach("web.before_claim")
    with store_faults():
        replies = await scripts.run_async(_line, "accept", names, args)
    reach("web.after_claim")
    return [await _answer(reply, order, key) for reply, (order, key) in zip(replies, orders, strict=True)]


async def _answer(reply: list[Any], order: Order, key: str) -> Intake | BrokenKey:
    match reply:
        case ["accepted"]:
            if not queue.BROKER_IS_LEDGER:
                # Dying here loses no order: its record is written, and the sweeper enqueues what no worker begins.
                await queue.publish_async(queue.FULFIL_TASK, order.id, order)
            return Accepted(order.id)
        case ["replayed", known]:
            return Replayed(known)
        case ["reused", known]:
            return Reused(known)
        case ["rate_limited", wait_ms]:
            return RateLimited(int(wait_ms))
        case [("queue_full" | "paused" | "broken") as word]:
            return _REFUSED.get(word) or BrokenKey.of(keys.order(order.id))
        case ["lost", known]:
            # The key was claimed under another ORDER_ID_SECRET and its record is gone: the id the client knows stays.
            return (await _claim([(msgspec.structs.replace(order, id=known), key)]))[0]
    raise AssertionError(f"accept.lua answered {reply}")
