"""Taking orders in: one idempotency key, one order, recorded and on the queue before the client hears of it."""

import asyncio
import hashlib
import time
import uuid
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from django.conf import settings

from shop import keys, queue, scripts
from shop.domain import Line, Order, summed
from shop.stores import StoreUnavailable, store_faults, web_database, web_redis

_json = msgspec.json.Encoder()


@dataclass(frozen=True)
class Accepted:
    """A new order: recorded, and on its way."""

    id: str


@dataclass(frozen=True)
class Replayed:
    """The key's order exists and is this one."""

    id: str


@dataclass(frozen=True)
class Reused:
    """The key's order exists and is a different one."""

    id: str


@dataclass(frozen=True)
class RateLimited:
    """The client is over its rate; in so many milliseconds it has room for one order."""

    wait_ms: int


@dataclass(frozen=True)
class QueueFull:
    """More orders are waiting than `QUEUE_LIMIT` allows."""


Intake = Accepted | Replayed | Reused | RateLimited | QueueFull


@cache
def _secret() -> bytes:
    return hashlib.sha256(settings.ORDER_ID_SECRET.encode()).digest()


def derived_id(purpose: str, client: str, key: str) -> str:
    """The UUID (version 8, RFC 9562) that stands for a client's idempotency key.

    It is a keyed hash, so it can't be guessed, and it is the same whenever the same key comes again: after Redis lost the
    key, the order still meets its own row in PostgreSQL.
    """
    digest = hashlib.blake2b(f"{purpose}\0{client}\0{key}".encode(), digest_size=16, key=_secret()).digest()
    number = int.from_bytes(digest, "big")
    number = number & ~(0xF << 76) | 0x8 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=number))


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


@dataclass
class _Waiting:
    order: Order
    key: str
    answer: "asyncio.Future[Intake]"


class OrderIntake:
    """Accepts orders for one event loop; those that arrive while Redis answers share the next round trip."""

    #: Orders in one script call: some milliseconds of Redis at most.
    BATCH = 64
    #: How long a request waits before it hears 503. The contract allows two seconds.
    PATIENCE_S = 1.7

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Task[None] | None = None

    async def accept(self, order: Order, key: str) -> Intake:
        """Accept an order under its idempotency key. Raises `StoreUnavailable` when that can't be known in time."""
        waiting = _Waiting(order, key, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(self.PATIENCE_S):
                return await waiting.answer
        except TimeoutError:
            raise StoreUnavailable("Redis: no answer in time") from None

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self.BATCH], self._waiting[self.BATCH :]
            batch = [waiting for waiting in batch if not waiting.answer.done()]
            try:
                answers = await accept(batch)
            except Exception as error:  # noqa: BLE001 - each request raises it for itself
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
                continue
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)


async def accept(batch: "list[_Waiting]") -> list[Intake]:
    """Accept orders: ask the books about keys Redis may have forgotten, then claim, record and enqueue."""
    known = await _in_books([waiting.order for waiting in batch])
    answers: dict[int, Intake] = {}
    for at, waiting in enumerate(batch):
        if found := known.get(waiting.order.id):
            same = found == waiting.order.fingerprint
            answers[at] = Replayed(waiting.order.id) if same else Reused(waiting.order.id)
    claims = [at for at in range(len(batch)) if at not in answers]
    if claims:
        replies = await _claim([(batch[at].order, batch[at].key) for at in claims])
        answers |= dict(zip(claims, replies, strict=True))
    return [answers[at] for at in range(len(batch))]


async def _in_books(orders: list[Order]) -> dict[str, str]:
    """Fingerprints of orders that ended: Redis forgets them after a day, or with its data.

    Without PostgreSQL the order is accepted all the same: should it exist, its worker meets the row and changes nothing.
    """
    try:
        return dict(await web_database.rows("fingerprints", ids=[order.id for order in orders]))
    except StoreUnavailable:
        return {}


async def _claim(orders: list[tuple[Order, str]]) -> list[Intake]:
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
        message = queue.fulfil_message(order) if queue.BROKER_IS_LEDGER else ""
        args += [order.id, order.fingerprint, order.client, _json.encode(order), message]
    with store_faults():
        replies = await scripts.run_async(web_redis(), "accept", names, args)
    return [await _answer(reply, order, key) for reply, (order, key) in zip(replies, orders, strict=True)]


async def _answer(reply: list[Any], order: Order, key: str) -> Intake:
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
        case ["queue_full"]:
            return QueueFull()
        case ["lost", known]:
            # The key was claimed under another ORDER_ID_SECRET and its record is gone: the id the client knows stays.
            return (await _claim([(msgspec.structs.replace(order, id=known), key)]))[0]
    raise AssertionError(f"accept.lua answered {reply}")
