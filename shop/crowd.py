"""Many buyers at once: orders placed over HTTP and followed to their ends, each timed."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from time import perf_counter
from typing import Any, Final, TypeVar

from shop.client import AsyncClient, Refused, Unavailable
from shop.domain import Line, Status
from shop.web.schemas import OrderAnswer

NOT_FOUND: Final = 404

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """An order somebody wants. `copies`: how often the same request is sent at the same moment."""

    key: str
    lines: Sequence[Line]
    customer: str | None = None
    reference: str | None = None
    copies: int = 1


@dataclass(frozen=True, kw_only=True)
class Purchase:
    """What became of a wish: for each copy its final answer (still queued where it got none in time).

    `seconds`: from the first POST to the final state. `known`: every copy was told that its order was there.
    """

    wish: Wish
    answers: tuple[OrderAnswer, ...]
    seconds: float
    known: bool


@dataclass(frozen=True, kw_only=True)
class Bought:
    """What a crowd bought in how many `seconds`.

    `available`: units left of each SKU, as the API said afterwards; SKUs that it does not know are missing.
    """

    purchases: Sequence[Purchase]
    seconds: float
    available: Mapping[str, int]

    def speed(self) -> str:
        """Orders and lines per second, and how long the buyers waited for the final state."""
        waits = sorted(purchase.seconds for purchase in self.purchases)
        lines = sum(len(purchase.wish.lines) for purchase in self.purchases)
        p50_ms, p99_ms = (waits[ceil(share * len(waits)) - 1] * 1000 for share in (0.50, 0.99))
        return (
            f"{len(waits):,} orders in {self.seconds:.1f} s: {len(waits) / self.seconds:,.0f} orders/s, "
            f"{lines / self.seconds:,.0f} lines/s; from POST to final state p50 {p50_ms:,.0f} ms, "
            f"p99 {p99_ms:,.0f} ms"
        )


@dataclass
class Tally:
    """How far the crowd is. `ended`: orders by final state, `lines`: in these orders, as asked for."""

    began: float = field(default_factory=perf_counter)
    placed: int = 0
    lines: int = 0
    ended: Counter[Status] = field(default_factory=Counter)

    @property
    def seconds(self) -> float:
        """Since the crowd came."""
        return max(perf_counter() - self.began, 1e-9)

    def __str__(self) -> str:
        states = "".join(f"{status} {self.ended[status]:,}  " for status in Status if self.ended[status])
        orders, lines = self.ended.total() / self.seconds, self.lines / self.seconds
        return f"placed {self.placed:,}  {states}{orders:,.0f} orders/s  {lines:,.0f} lines/s"


Changed = Callable[[Tally], None]


async def buy(
    client: AsyncClient, wishes: Sequence[Wish], *, buyers: int, changed: Changed = lambda tally: None
) -> Bought:
    """Let so many buyers place all wishes, each buyer one after another; returns when all orders have ended.

    `changed` is told of each order placed and each one ended. Raises `Refused` that names the order,
    `Unavailable`.
    """
    tally = Tally()
    purchases: list[Purchase] = []

    async def buyer(waiting: Iterator[Wish]) -> None:
        for wish in waiting:
            purchase = await _purchase(client, wish, tally, changed)
            purchases.append(purchase)
            tally.ended[purchase.answers[0].status] += 1
            tally.lines += len(wish.lines)
            changed(tally)

    await _together(buyer, wishes, buyers)
    seconds = tally.seconds
    skus = sorted({line.sku for wish in wishes for line in wish.lines})
    return Bought(
        purchases=purchases, seconds=seconds, available=await available(client, skus, askers=buyers)
    )


async def available(client: AsyncClient, skus: Sequence[str], *, askers: int) -> dict[str, int]:
    """Units left of each SKU, as the API says; SKUs that it does not know are missing."""
    found: dict[str, int] = {}

    async def asker(waiting: Iterator[str]) -> None:
        for sku in waiting:
            try:
                found[sku] = (await client.product(sku)).available
            except Refused as refused:
                if refused.problem.status != NOT_FOUND:
                    raise

    await _together(asker, skus, askers)
    return found


async def _together(
    worker: Callable[[Iterator[_T]], Coroutine[Any, Any, None]], things: Sequence[_T], workers: int
) -> None:
    """So many workers take from the same things until none is left; the first that fails ends them all."""
    waiting = iter(things)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(workers, len(things))):
                group.create_task(worker(waiting))
    except* (Refused, Unavailable) as failed:
        raise failed.exceptions[0] from None


async def _purchase(client: AsyncClient, wish: Wish, tally: Tally, changed: Changed) -> Purchase:
    began = perf_counter()
    copies = await asyncio.gather(*(place(client, wish) for _ in range(wish.copies)))
    tally.placed += 1
    changed(tally)
    answers = await asyncio.gather(*(_ended(client, order) for order, _ in copies))
    return Purchase(
        wish=wish,
        answers=tuple(answers),
        seconds=perf_counter() - began,
        known=all(replayed for _, replayed in copies),
    )


async def place(client: AsyncClient, wish: Wish) -> tuple[OrderAnswer, bool]:
    """Place one copy of the wish; the order, and whether its key was known. Raises `Refused` that names it."""
    items = [(line.sku, line.quantity) for line in wish.lines]
    try:
        placed = await client.place_order(
            items, key=wish.key, customer=wish.customer, reference=wish.reference
        )
    except Refused as refused:
        raise type(refused)(refused.problem, f"order {wish.key}", refused.request_id) from refused
    return placed.order, placed.replayed


async def _ended(client: AsyncClient, order: OrderAnswer) -> OrderAnswer:
    return order if order.status is not Status.QUEUED else await client.ended(order.id)
