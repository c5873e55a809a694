"""A rush of buyers: each comes at a moment of his own, whatever the shop does, and behaves as people do.

An open loop: who waits for an answer keeps nobody else from ordering, and a buyer's time counts from the moment he
wanted to order, so that nothing that makes him wait is left out (no coordinated omission).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

from shop import crowd
from shop.client import AsyncClient, NotCancellable, Refused, Unavailable
from shop.crowd import Bought, Purchase
from shop.domain import Status
from shop.flash_sale import Habit, Visit
from shop.web.schemas import OrderAnswer

#: How often the shop is asked what is left of each SKU, in seconds.
STOCK_EVERY_S: Final = 0.25
#: SKUs that are watched, at most: one page of products.
PAGE: Final = 500
#: How often whoever looks on is told, in seconds.
TELL_EVERY_S: Final = 0.1
#: How long an order that was to be cancelled is watched, in seconds.
CANCELLED_WITHIN_S: Final = 60.0


@dataclass(kw_only=True)
class Journal:
    """What happened when, in seconds after the opening.

    `came`: of each buyer. `accepted`: (when, seconds since the buyer wanted to order) of each first 202.
    `ended`: the same with the state, of each first final state that a buyer was told; those who left are
    entered when they are looked up, by what the order says, without a time they waited. `cancelled`: when.
    `stock`: (when, units left by SKU, of the 500 most wanted).
    """

    opened: float = field(default_factory=monotonic)
    opened_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    came: list[float] = field(default_factory=list)
    accepted: list[tuple[float, float]] = field(default_factory=list)
    ended: list[tuple[float, Status, float | None]] = field(default_factory=list)
    cancelled: list[float] = field(default_factory=list)
    stock: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)
    habits: Counter[Habit] = field(default_factory=Counter)

    @property
    def now_s(self) -> float:
        """Seconds since the opening."""
        return monotonic() - self.opened

    def waits_s(self, since_s: float = 0.0) -> list[float]:
        """How long buyers waited for their results that came after `since_s`, the shortest first."""
        return sorted(wait for at_s, _, wait in self.ended if wait is not None and at_s >= since_s)


Told = Callable[[Journal], None]


async def rush(
    client: AsyncClient, visits: Sequence[Visit], *, search: str, closing: asyncio.Event, told: Told
) -> tuple[Bought, Journal]:
    """Let the buyers come until all were there or `closing` is set; returns when all their orders have ended.

    `search` finds the products on sale. `told` is called ten times a second. Raises `Refused` that names the
    order, `Unavailable`.
    """
    journal = Journal()
    closed = asyncio.Event()
    purchases: list[Purchase] = []

    async def buyer(visit: Visit) -> None:
        purchases.append(await _visit(client, visit, journal, closed))

    async with _meanwhile(_watch_stock(client, search, journal), _tell(told, journal)):
        try:
            async with asyncio.TaskGroup() as group:
                for visit in visits:
                    if await _is_set_within(closing, visit.at_s - journal.now_s):
                        break
                    journal.came.append(visit.at_s)
                    journal.habits[visit.habit] += 1
                    group.create_task(buyer(visit))
                closed.set()
        except* (Refused, Unavailable) as failed:
            raise failed.exceptions[0] from None
    seconds = journal.now_s
    journal.stock.append((seconds, await _stock(client, search)))
    told(journal)
    skus = sorted({line.sku for purchase in purchases for line in purchase.wish.lines})
    available = await crowd.available(client, skus, askers=32)
    return Bought(purchases=purchases, seconds=seconds, available=available), journal


async def _visit(client: AsyncClient, visit: Visit, journal: Journal, closed: asyncio.Event) -> Purchase:
    copies = await asyncio.gather(*(crowd.place(client, visit.wish) for _ in range(visit.wish.copies)))
    journal.accepted.append((journal.now_s, journal.now_s - visit.at_s))
    if visit.habit is Habit.LEAVES:
        await closed.wait()
    answers = await asyncio.gather(*(client.ended(order.id) for order, _ in copies))
    seconds = _note_end(journal, visit, answers[0])
    if visit.habit is Habit.RETRIES:
        await asyncio.sleep(visit.pause_s)
        again, _ = await crowd.place(client, visit.wish)
        answers.append(await client.ended(again.id))
    if visit.habit is Habit.CANCELS:
        await asyncio.sleep(visit.pause_s)
        answers = [await _cancelled(client, answers[0])]
        if answers[0].status is Status.CANCELLED:
            journal.cancelled.append(journal.now_s)
    known = all(replayed for _, replayed in copies)
    return Purchase(wish=visit.wish, answers=tuple(answers), seconds=seconds, known=known)


def _note_end(journal: Journal, visit: Visit, order: OrderAnswer) -> float:
    """Seconds until the buyer knew; of one who left, until he could have known."""
    if visit.habit is Habit.LEAVES:
        ended_s = (order.updated_at - journal.opened_at).total_seconds()
        journal.ended.append((ended_s, order.status, None))
        return (order.updated_at - order.created_at).total_seconds()
    now_s = journal.now_s
    journal.ended.append((now_s, order.status, now_s - visit.at_s))
    return now_s - visit.at_s


async def _cancelled(client: AsyncClient, order: OrderAnswer) -> OrderAnswer:
    """Cancel an order; it as it is afterwards, which is as it was if there was nothing to cancel."""
    try:
        return await client.cancelled(order.id, within_s=CANCELLED_WITHIN_S)
    except NotCancellable:
        return order


async def _stock(client: AsyncClient, search: str) -> dict[str, int]:
    """Units left of the first page of SKUs: the most wanted ones, as their names are in the order of demand."""
    page = await client.products(q=search, limit=PAGE)
    return {product.sku: product.available for product in page.items}


async def _watch_stock(client: AsyncClient, search: str, journal: Journal) -> None:
    while True:
        left = await _stock(client, search)
        journal.stock.append((journal.now_s, left))
        await asyncio.sleep(STOCK_EVERY_S)


async def _tell(told: Told, journal: Journal) -> None:
    while True:
        told(journal)
        await asyncio.sleep(TELL_EVERY_S)


@asynccontextmanager
async def _meanwhile(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do what has no end until the block ends. Raises what they raise, then."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        failed = [
            one for one in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(one, Exception)
        ]
    if failed:
        raise failed[0]


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    return event.is_set()
