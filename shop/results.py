"""What clients poll: the present state of an order, and waiting for the next one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextvars import Context
from datetime import datetime
from typing import Any, Final

import msgspec
import redis.asyncio
import structlog
from django.conf import settings

from shop import keys, scripts
from shop.domain import Line, Order, Reason, Status
from shop.round_trips import RoundTrips
from shop.stores import (
    BrokenKey,
    RedisLine,
    StoreUnavailable,
    order_database,
    plain_spoken,
    store_faults,
    uuid_array,
)

log = structlog.get_logger()


class OrderState(msgspec.Struct, frozen=True, kw_only=True):
    """An order and where it is. `updated_at_ms`: Unix time of its last change of state."""

    order: Order
    status: Status
    reason: Reason | None
    updated_at_ms: int


_Found = OrderState | StoreUnavailable | None
#: An order id, the client that asks for it, and whether it will ask again before it says that the order is queued.
_Asked = tuple[str, str, bool]

#: Whoever waits for a queued order asks Redis alone at first. After so long it asks the books, too: they may have
#: decided the order, and Redis not have heard of it.
BOOKS_AFTER_S: Final = 1.0


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """What Redis has of an order (`read.lua`), and whether a worker is to cancel it."""

    order: Order
    status: Status
    reason: Reason | None
    updated_at_ms: int
    cancelling: bool

    @property
    def may_be_old(self) -> bool:
        """Whether the books may have decided more than Redis has heard of."""
        return self.status is Status.QUEUED or (self.status is Status.CONFIRMED and self.cancelling)

    @property
    def state(self) -> OrderState:
        """The order as clients see it."""
        return OrderState(
            order=self.order, status=self.status, reason=self.reason, updated_at_ms=self.updated_at_ms
        )


#: False: nobody can tell, because somebody has put something else under the order's key, or into the record.
_records = msgspec.json.Decoder(list[_Record | bool | None])


async def find(order_id: str, client: str) -> OrderState | None:
    """The client's order, None where there is none (or it is another client's).

    Redis first, PostgreSQL for what ended long ago or while Redis is away. Raises `StoreUnavailable` where the order may
    exist but nobody can tell.
    """
    return await _look(order_id, client, asks_again=False)


async def _look(order_id: str, client: str, *, asks_again: bool) -> OrderState | None:
    found = await _reading.ask((order_id, client, asks_again))
    if isinstance(found, StoreUnavailable):
        raise found
    return found


async def _read(asked: Sequence[_Asked]) -> list[_Found]:
    """What is to be said of each order: its state, that there is none, or that nobody can tell.

    An order of another client takes the same way as one that does not exist.
    """
    each_once = list(dict.fromkeys(asked))
    away: StoreUnavailable | None = None
    records: dict[_Asked, _Record | BrokenKey] = {}
    books: dict[tuple[str, str], OrderState] = {}
    try:
        records = await _in_redis(each_once)
    except StoreUnavailable as error:
        away = error
    unsure = [each for each in each_once if _is_for_the_books(records.get(each), each)]
    try:
        if unsure:
            books = await _in_books(unsure)
    except StoreUnavailable as error:
        away = error
    found = {each: _judged(records.get(each), books.get(each[:2]), away) for each in each_once}
    return [found[each] for each in asked]


def _is_for_the_books(record: _Record | BrokenKey | None, asked: _Asked) -> bool:
    if not isinstance(record, _Record):
        return True
    return record.may_be_old and not (asked[2] and record.status is Status.QUEUED)


def _judged(
    record: _Record | BrokenKey | None, booked: OrderState | None, away: StoreUnavailable | None
) -> _Found:
    if not isinstance(record, _Record):
        return booked or record or away
    # PostgreSQL may know more than Redis: what a client read there while Redis was unavailable must not be taken back.
    return booked or record.state


_line = RedisLine()
_reading = RoundTrips(_read, most=512)


async def _in_redis(asked: list[_Asked]) -> dict[_Asked, _Record | BrokenKey]:
    names = [keys.order(order_id) for order_id, *_ in asked]
    try:
        with store_faults():
            found = await scripts.run_async(
                _line, "read", names, [client for _, client, _ in asked], _records
            )
    except msgspec.DecodeError:
        if len(asked) > 1:
            raise  # each is asked for alone then, so that one record without sense hurts nobody else
        found = [False]
    return {
        each: record if isinstance(record, _Record) else BrokenKey.of(keys.order(each[0]))
        for each, record in zip(asked, found, strict=True)
        if record is not None
    }


async def _in_books(asked: list[_Asked]) -> dict[tuple[str, str], OrderState]:
    clients = list({client for _, client, _ in asked})
    found = await order_database.rows(
        "orders", ids=uuid_array(order_id for order_id, *_ in asked), clients=clients
    )
    return {(row[0], row[1]): _from_row(row) for row in found}


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
    return round(moment.timestamp() * 1000)


class News(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an order, as `settle.lua` publishes it. `fingerprint`: of which order that came under its key."""

    status: Status
    reason: Reason | None
    updated_at_ms: int
    fingerprint: str


def _news(told: str) -> News | None:
    """What a line says after the order's id; None where it says too little, or what a worker of another release says."""
    status, *more = told.split(" ", 3)
    if len(more) < 3:
        return None
    since, fingerprint, reason = more
    try:
        return News(
            status=Status(status),
            reason=msgspec.json.decode(reason, type=Reason) if reason else None,
            updated_at_ms=int(since),
            fingerprint=fingerprint,
        )
    except (ValueError, msgspec.DecodeError):
        return None  # were it to raise, it would end the listening for all who wait


class Settlements:
    """Wakes requests of this process when their order changes state: one subscription, however many wait."""

    #: After so long a silence Redis is asked for a sign of life, and after the same again it is taken to be gone.
    SILENCE_S = 5.0
    #: Whether nobody is to wait any more, because this process is about to stop.
    is_released = False

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[News | None]]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def watch(self, order_id: str) -> "AsyncIterator[asyncio.Future[News | None]]":
        """A future that is done when the order changes state after the block was entered, or, with None, may have.

        Subscribe, then look: an order settled between a look and a later subscription would never wake anybody.
        """
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen(), context=Context())
        changed = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(order_id, set())
        waiting.add(changed)
        try:
            if not self._subscribed.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._subscribed.wait(), 1)
            yield changed
        finally:
            waiting.discard(changed)
            if not waiting:
                del self._waiting[order_id]

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (redis.exceptions.RedisError, OSError):
                pass
            except Exception:
                # Everybody who waits relies on this task, and who waits already does not begin it again.
                log.exception("listening for settled orders failed, and begins again")
            self._subscribed.clear()
            await asyncio.sleep(0.5)

    async def _listen_once(self) -> None:
        pool = redis.asyncio.ConnectionPool.from_url(
            settings.REDIS_URL, decode_responses=True, socket_connect_timeout=1
        )
        connection = redis.asyncio.Redis.from_pool(plain_spoken(pool))
        async with connection, connection.pubsub(ignore_subscribe_messages=False) as subscription:
            await subscription.subscribe(keys.SETTLED_CHANNEL)
            asked_for_life = False
            while True:
                message = await subscription.get_message(timeout=self.SILENCE_S)
                if message is None and asked_for_life:
                    raise redis.exceptions.ConnectionError("no sign of life")
                asked_for_life = message is None
                if message is None:
                    await subscription.ping()
                elif message["type"] == "subscribe":
                    self._subscribed.set()
                    self._wake_all()
                elif message["type"] == "message":
                    self._tell(message["data"].split("\n"))

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            order_id, _, told = line.partition(" ")
            if order_id in self._waiting:
                self._wake(order_id, _news(told))

    def _wake_all(self) -> None:
        """What was published while nobody listened is lost: whoever waits looks again."""
        for order_id in self._waiting:
            self._wake(order_id, None)

    def _wake(self, order_id: str, news: News | None) -> None:
        for changed in self._waiting[order_id]:
            if not changed.done():
                changed.set_result(news)

    def release(self) -> None:
        """Have everybody who waits, now or later, answered with the present state."""
        self.is_released = True
        self._wake_all()

    async def close(self) -> None:
        """Stop listening."""
        while self._listener is not None and not self._listener.done():
            # More than once: redis-py may be cancelled as its own time-out ends, and then goes on as if nothing was.
            self._listener.cancel()
            await asyncio.wait({self._listener}, timeout=0.2)
        self._subscribed = asyncio.Event()


settlements = Settlements()


class Hold:
    """An answer that is held back while its order is queued."""

    __slots__ = ("changed", "is_released")

    def __init__(self) -> None:
        self.is_released = False
        #: What the one who waits looks at, while it waits.
        self.changed: asyncio.Future[News | None] | None = None

    def release(self) -> None:
        """Have it answered now, with the present state."""
        self.is_released = True
        if self.changed is not None and not self.changed.done():
            self.changed.set_result(None)


async def close() -> None:
    """Stop listening, and close this module's connection."""
    await settlements.close()
    await _line.close()


async def wait(order_id: str, client: str, seconds: float, hold: Hold | None = None) -> OrderState | None:
    """`find`, but hold the answer for up to `seconds` while the order is queued, until `hold` or all waits are released.

    Who waits has the order from the first look, and its end from what is published: a second look would cost as much as the
    first, and take as long.
    """
    hold = hold or Hold()
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    asks_again, asks_again_at = True, min(until, clock() + BOOKS_AFTER_S)
    while True:
        async with settlements.watch(order_id) as changed:
            hold.changed = changed
            is_over = hold.is_released or settlements.is_released or clock() >= until
            state = await _look(order_id, client, asks_again=asks_again and not is_over)
            if state is None or state.status is not Status.QUEUED or is_over:
                return state
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(asks_again_at):
                    news = await changed
                    # Another order's end, where Redis lost this one and its key came for another: that takes a look.
                    if news and news.fingerprint == state.order.fingerprint:
                        return OrderState(
                            order=state.order,
                            status=news.status,
                            reason=news.reason,
                            updated_at_ms=news.updated_at_ms,
                        )
        asks_again, asks_again_at = False, until
