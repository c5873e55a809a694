"""What clients poll: the present state of an order, and waiting for the next one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec
import redis.asyncio
from django.conf import settings

from shop import keys
from shop.domain import Line, Order, Reason, Status
from shop.stores import StoreUnavailable, store_faults, web_database, web_redis


class OrderState(msgspec.Struct, frozen=True, kw_only=True):
    """An order and where it is. `updated_at_ms`: Unix time of its last change of state."""

    order: Order
    status: Status
    reason: Reason | None
    updated_at_ms: int


_document = msgspec.json.Decoder(Order)
_reason = msgspec.json.Decoder(Reason)


async def find(order_id: str, client: str) -> OrderState | None:
    """The client's order, None where there is none (or it is another client's).

    Redis first, PostgreSQL for what ended long ago or while Redis is away. Raises `StoreUnavailable` where the order may
    exist but nobody can tell.
    """
    away: StoreUnavailable | None = None
    state, cancelling = None, False
    try:
        state, cancelling = await _in_redis(order_id)
    except StoreUnavailable as error:
        away = error
    if state is None:
        state = await _in_books(order_id)
    elif state.status is Status.QUEUED:
        # Whoever read the books while Redis was away may have seen more than Redis knows now.
        with contextlib.suppress(StoreUnavailable):
            decided = await _in_books(order_id)
            if decided and not (cancelling and decided.status in (Status.REJECTED, Status.FAILED)):
                state = decided
    if state is None and away:
        raise away
    return state if state and state.order.client == client else None


async def _in_redis(order_id: str) -> tuple[OrderState | None, bool]:
    """The order's record, and whether a worker is to cancel it."""
    with store_faults():
        fields = ["document", "status", "reason", "updated_at", "cancel"]
        document, status, reason, updated_at, cancel = await web_redis().hmget(keys.order(order_id), fields)
    if document is None:
        return None, False
    state = OrderState(
        order=_document.decode(document),
        status=Status(status),
        reason=_reason.decode(reason) if reason else None,
        updated_at_ms=int(updated_at),
    )
    return state, cancel is not None


async def _in_books(order_id: str) -> OrderState | None:
    found = await web_database.rows("order", id=order_id)
    return _from_row(found[0]) if found else None


def _from_row(row: tuple[Any, ...]) -> OrderState:
    order_id, client, status, customer, reference, fingerprint, reason, accepted_at, updated_at, lines = row
    order = Order(
        id=order_id,
        client=client,
        lines=tuple(Line(sku, quantity) for sku, quantity in lines),
        fingerprint=fingerprint,
        accepted_at_ms=_ms(accepted_at),
        customer=customer,
        reference=reference,
    )
    told = msgspec.convert(reason, Reason) if reason else None
    return OrderState(order=order, status=Status(status), reason=told, updated_at_ms=_ms(updated_at))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


class Settlements:
    """Wakes requests of this process when their order changes state: one subscription, however many wait."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def watch(self, order_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the order changes state after the block was entered.

        Subscribe, then look: an order settled between a look and a later subscription would never wake anybody.
        """
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen())
        event = asyncio.Event()
        self._waiting.setdefault(order_id, set()).add(event)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._subscribed.wait(), 1)
            yield event
        finally:
            waiting = self._waiting.get(order_id, set())
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(order_id, None)

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (redis.exceptions.RedisError, OSError):
                self._subscribed.clear()
                # Whoever waits looks again: what was published meanwhile is lost.
                self._wake(list(self._waiting))
                await asyncio.sleep(0.5)

    async def _listen_once(self) -> None:
        connection = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, decode_responses=True, socket_connect_timeout=1, health_check_interval=10
        )
        async with connection, connection.pubsub(ignore_subscribe_messages=False) as subscription:
            await subscription.subscribe(keys.SETTLED_CHANNEL)
            while True:
                message = await subscription.get_message(timeout=5)
                if message and message["type"] == "subscribe":
                    self._subscribed.set()
                elif message and message["type"] == "message":
                    self._wake([line.split(" ")[0] for line in message["data"].split("\n")])

    def _wake(self, order_ids: list[str]) -> None:
        for order_id in order_ids:
            for event in self._waiting.get(order_id, ()):
                event.set()

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener


settlements = Settlements()


async def wait(order_id: str, client: str, seconds: float) -> OrderState | None:
    """`find`, but hold the answer for up to `seconds` while the order is queued."""
    async with settlements.watch(order_id) as changed:
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            changed.clear()
            state = await find(order_id, client)
            left = deadline - asyncio.get_running_loop().time()
            if state is None or state.status is not Status.QUEUED or left <= 0:
                return state
            with contextlib.suppress(TimeoutError):
                # A message can be lost with its connection: look every few seconds all the same.
                await asyncio.wait_for(changed.wait(), min(left, 5))
