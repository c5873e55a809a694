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
from shop.redis_memory import Watermark
from shop.round_trips import RoundTrips
from shop.stores import BrokenKey, RedisLine, StoreUnavailable, order_database, store_faults, uuid_array
from shop.tracing import tracing
from workers.fail_points import reach

log = structlog.get_logger()
_json = msgspec.json.Encoder()
_LOGS_ORDERS: bool = settings.LOG_ORDERS


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
    """More orders are waiting than `QUEUE_LIMIT` allows, or Redis's memory is nearly full (`shop.redis_memory`)."""

    word: ClassVar = "queue_full"


@dataclass(frozen=True)
class IntakePaused:
    """No new orders are taken at present (`shop.pauses`)."""

    word: ClassVar = "paused"


Intake = Accepted | Replayed | Reused | RateLimited | QueueFull | IntakePaused
_KNOWN: dict[str, type[Replayed | Reused]] = {known.word: known for known in (Replayed, Reused)}
_REFUSED = {refused.word: refused for refused in (QueueFull(), IntakePaused())}


def hash_keys(*secrets: str) -> tuple[bytes, ...]:
    """What ids derive from, of each secret."""
    return tuple(hashlib.sha256(secret.encode()).digest() for secret in secrets)


@cache
def _hash_keys() -> tuple[bytes, ...]:
    return hash_keys(settings.ORDER_ID_SECRET, *settings.ORDER_ID_SECRETS_BEFORE)


def derived_id(purpose: str, client: str, key: str) -> str:
    """The UUID (version 8, RFC 9562) that stands for a client's idempotency key.

    It is a keyed hash, so it can't be guessed, and it is the same whenever the same key comes again: after Redis lost the
    key, the order still meets its own row in PostgreSQL.
    """
    return _derived(_hash_keys()[0], f"{purpose}\0{client}\0{key}")


def ids_before(purpose: str, client: str, key: str) -> list[str]:
    """What `derived_id` is under each of `ORDER_ID_SECRETS_BEFORE`: the key may stand for one of these instead."""
    if len(_hash_keys()) == 1:
        return []  # as for nearly every order: the rest costs half a microsecond
    return [_derived(hash_key, f"{purpose}\0{client}\0{key}") for hash_key in _hash_keys()[1:]]


def _derived(hash_key: bytes, named: str) -> str:
    digest = hashlib.blake2b(named.encode(), digest_size=16, key=hash_key).hexdigest()
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


class _Asked(msgspec.Struct, frozen=True, gc=False):
    """An order to be accepted under a key. `ids`: those that the key may stand for, the order's own first."""

    order: Order
    key: str
    ids: tuple[str, ...]

    def under(self, order_id: str) -> "_Asked":
        """The same order under another of its ids."""
        ids = (order_id, *(each for each in self.ids if each != order_id))
        return _Asked(msgspec.structs.replace(self.order, id=order_id), self.key, ids)


async def accept(order: Order, key: str, deadline: float) -> Intake:
    """Accept an order under its idempotency key. Raises `StoreUnavailable` when that can't be known by the deadline."""
    try:
        order = tracing.attached(order)
        asked = _Asked(order, key, (order.id, *ids_before("order", order.client, key)))
        answer = await _intake.ask(asked, deadline)
        if isinstance(answer, StoreUnavailable):
            raise answer
    except Exception:
        structlog.contextvars.bind_contextvars(order=order.id)  # for whoever logs it
        raise
    tracing.taken_in(answer.word, getattr(answer, "id", ""))
    if _LOGS_ORDERS:
        log.info("order taken in", order=order.id, client=order.client, answer=type(answer).__name__)
    return answer


async def _accept(asked: Sequence[_Asked]) -> list[Intake | StoreUnavailable]:
    """Accept orders: ask PostgreSQL about keys that Redis may have forgotten, then claim, record and enqueue."""
    fingerprints = await _in_books(asked)
    if fingerprints:
        asked = [each.under(_booked(each, fingerprints) or each.order.id) for each in asked]
    answers = await _claim(asked, fingerprints)
    words = (answer.word for answer in answers if not isinstance(answer, StoreUnavailable))
    figures.tally.add_all(Counter(figures.INTAKE + word for word in words))
    return answers


_line = RedisLine()
_watermark = Watermark()
#: At most so many orders in one script call, which is some milliseconds of Redis. With half as many, one process keeps up
#: with 3,000 orders/s only while both stores together answer within 20 ms.
_intake = RoundTrips(_accept, most=128)


_MAY_HAVE_ENDED = "PostgreSQL: unavailable, and it may have the order of this key"


async def close() -> None:
    """Close this module's connection."""
    await _line.close()


async def _in_books(asked: Sequence[_Asked]) -> dict[str, str] | None:
    """Fingerprints of orders that ended: Redis forgets them after a while, or with its data. None: PostgreSQL is away."""
    try:
        ids = uuid_array(order_id for each in asked for order_id in each.ids)
        return dict(await order_database.rows("fingerprints", ids=ids))
    except StoreUnavailable:
        return None


def _booked(asked: _Asked, fingerprints: dict[str, str]) -> str | None:
    """The id that PostgreSQL has a row of."""
    return next((order_id for order_id in asked.ids if order_id in fingerprints), None)


async def _claim(
    asked: Sequence[_Asked], fingerprints: dict[str, str] | None
) -> list[Intake | StoreUnavailable]:
    """Claim, record and enqueue, in one call. `fingerprints`: by id, of PostgreSQL's rows; None: it could not be asked."""
    with store_faults():
        # Without room for new orders, those that keys stand for are still found.
        queue_limit = 0 if await _watermark.is_reached(_line) else settings.QUEUE_LIMIT
    now_ms = int(time.time() * 1000)
    names = [keys.OPEN_ORDERS, queue.broker_key()]
    args: list[Any] = [
        now_ms,
        keys.DAY_S,
        queue_limit,
        settings.ORDER_RATE_LIMIT,
        now_ms + settings.SWEEP_AFTER_MS,
        len(asked[0].ids),
        "" if fingerprints is None else "asked",
    ]
    for each in asked:
        order, key, ids = each.order, each.key, each.ids
        names += [keys.idempotency(order.client, key), keys.rate(order.client), *map(keys.order, ids)]
        document = _json.encode(order)
        message = queue.fulfil_message_of(order.id, document) if queue.BROKER_IS_LEDGER else ""
        booked = fingerprints.get(order.id, "") if fingerprints else ""
        args += [order.fingerprint, order.client, document, message, booked, *ids]
    reach("web.before_claim")
    with store_faults():
        replies = await scripts.run_async(_line, "accept", names, args)
    reach("web.after_claim")
    return [await _answer(reply, each, fingerprints) for reply, each in zip(replies, asked, strict=True)]


async def _answer(
    reply: list[Any], asked: _Asked, fingerprints: dict[str, str] | None
) -> Intake | StoreUnavailable:
    match reply:
        case ["accepted"]:
            if not queue.BROKER_IS_LEDGER:
                # Dying here loses no order: its record is written, and the sweeper enqueues what no worker begins.
                await queue.publish_async(queue.FULFIL_TASK, asked.order.id, asked.order)
            return Accepted(asked.order.id)
        case [("replayed" | "reused") as word, known]:
            return _KNOWN[word](known)
        case ["rate_limited", wait_ms]:
            return RateLimited(int(wait_ms))
        case [("queue_full" | "paused") as word]:
            return _REFUSED[word]
        case [("unknown" | "broken"), *broken]:
            return BrokenKey.of(keys.order(*broken)) if broken else StoreUnavailable(_MAY_HAVE_ENDED)
        case ["lost", known]:
            # Its message may still be on the queue: under this id the order is fulfilled once, whatever becomes of it.
            return (await _claim([asked.under(known)], fingerprints))[0]
    raise AssertionError(f"accept.lua answered {reply}")
