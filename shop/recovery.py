"""After PostgreSQL or Redis came back from a backup: let the two tell one story again, of all that either still knows.

PostgreSQL decides, but what it has forgotten is not undone: a stock movement that Redis remembers, and an order whose end it
remembers, are written into the books as their clients were told. Where the books know more, Redis follows them. Stock is
published anew.
Everything is safe to repeat. Best done before web processes and workers start; while orders flow it does no harm.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import sleep
from typing import Any

import msgspec
import structlog

from shop import books, clients, fulfilment, keys, movements, stock
from shop.books import Blocked, Intent, Question, Recorded
from shop.domain import Order, Reason, Status
from shop.movements import Asked
from shop.reconciliation import Difference
from shop.stores import TextRedis, rows, store_faults

log = structlog.get_logger()

#: Orders, or SKUs, of one step.
BATCH = 500
#: Orders that PostgreSQL writes in one go.
BOOK_BATCH = 50
#: Seconds until a product row is asked for again that another transaction holds.
BLOCKED_WAIT_S = 0.05

_document = msgspec.json.Decoder(Order)
_reason = msgspec.json.Decoder(Reason)


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """An order as Redis has it. `is_to_be_cancelled`: its cancellation was accepted, and is not published yet."""

    order: Order
    status: Status
    reason: Reason | None
    is_to_be_cancelled: bool = False

    @property
    def end(self) -> Status:
        """What is written. The old PostgreSQL may have carried out the cancellation, and sold the units to others."""
        return (
            Status.CANCELLED if self.is_to_be_cancelled and self.status is Status.CONFIRMED else self.status
        )


@dataclass(kw_only=True)
class Recovery:
    """Orders and stock movements that were written into the books, orders that Redis now tells as the books do, and what
    stays different."""

    booked: int = 0
    moved: int = 0
    told: int = 0
    differences: list[Difference] = field(default_factory=list)

    def summary(self) -> str:
        """What was done, in a line."""
        return (
            f"{self.booked} orders booked from Redis, {self.told} told by PostgreSQL, "
            f"{self.moved} lost stock movements entered again, "
            f"{len(self.differences)} that differ for good"
        )


def recover(client: TextRedis, goes_on: Callable[[], None] = lambda: None) -> Recovery:
    """Bring both stores together. `goes_on`: called between steps. Raises `StoreUnavailable`."""
    done = Recovery()
    # What was decided before and not published yet is of a PostgreSQL that is gone.
    stock.begin_epoch(client)
    lost = list(movements.lost(client))
    # Deliveries come first, since orders may live on them, and withdrawals last: none takes what an order was promised.
    _enter_again([asked for asked in lost if asked.delta > 0], done)
    unbooked: list[Remembered] = []
    for remembered in _remembered(client):
        goes_on()
        unbooked += _unbooked(remembered, done, client)
    _book(unbooked, done, client, goes_on)
    _enter_again([asked for asked in lost if asked.delta < 0], done)
    _publish_all(client, goes_on)
    clients.publish_keys()
    return done


def _enter_again(lost: Iterable[Asked], done: Recovery) -> None:
    for asked in lost:
        if movements.enter_again(asked):
            done.moved += 1
            log.warning("lost with the old PostgreSQL, and entered again", what=str(asked))
        else:
            cause = "it takes units that are confirmed, or its product is gone: look after it"
            done.differences.append(Difference(what=f"{asked} was lost with the old PostgreSQL", cause=cause))


def _remembered(client: TextRedis) -> Iterator[list[Remembered]]:
    names = _found(client, keys.order("*"))
    while batch := list(islice(names, BATCH)):
        with store_faults():
            pipe = client.pipeline(transaction=False)
            for name in batch:
                pipe.hmget(name, "document", "status", "reason")
                pipe.zscore(keys.CANCELLATIONS, name.removeprefix(keys.order("")))
            found = pipe.execute()
        yield [
            _order(document, status, reason, asked_at)
            for (document, status, reason), asked_at in zip(found[::2], found[1::2], strict=True)
            if document and status
        ]


def _found(client: TextRedis, pattern: str) -> Iterator[str]:
    with store_faults():
        yield from client.scan_iter(match=pattern, count=BATCH)


def _order(document: str, status: str, reason: str | None, asked_at: float | None) -> Remembered:
    return Remembered(
        order=_document.decode(document),
        status=Status(status),
        reason=_reason.decode(reason) if reason else None,
        is_to_be_cancelled=asked_at is not None,
    )


def _unbooked(remembered: list[Remembered], done: Recovery, client: TextRedis) -> Iterator[Remembered]:
    """Orders that PostgreSQL has lost. The others are made to agree first: what is cancelled may be what these need."""
    # Redis was read first, and never shows an end before PostgreSQL has it: what is missing now, PostgreSQL has lost.
    recorded = books.recorded([each.order.id for each in remembered])
    for each in remembered:
        found = recorded.get(each.order.id)
        if found is None:
            if each.status is not Status.QUEUED:
                yield each
        elif found.status is not each.end or found.status is not each.status:
            _agree(each, found, done, client)


def _book(
    unbooked: Sequence[Remembered], done: Recovery, client: TextRedis, goes_on: Callable[[], None]
) -> None:
    # A row that somebody holds is waited for. Were its order left out, its units could be sold to another one.
    while unbooked:
        goes_on()
        batch, rest = unbooked[:BOOK_BATCH], unbooked[BOOK_BATCH:]
        decided = books.decide([_question(each) for each in batch]).outcomes
        blocked = [each for each in batch if isinstance(decided[each.order.id], Blocked)]
        if blocked:
            sleep(BLOCKED_WAIT_S)
        for each in batch:
            match decided[each.order.id]:
                case Recorded(status=each.end):
                    done.booked += 1
                    if each.end is not each.status:
                        fulfilment.settle_again(each.order.id, client=client)
                case Blocked():
                    pass
                case _:
                    done.differences.append(_unbookable(each))
        unbooked = [*rest, *blocked]


def _question(each: Remembered) -> Question:
    intent = Intent.BOOK if each.end is Status.CONFIRMED else Intent(each.end.value)
    return Question(order=each.order, intent=intent, reason=each.reason)


def _unbookable(each: Remembered) -> Difference:
    log.error("an order that was confirmed can't be booked again", order=each.order.id)
    what = f"order {each.order.id} of {each.order.client} was {each.status}, and is not in PostgreSQL"
    cause = "stock that came after the backup is missing: enter it again, then repeat this"
    return Difference(what=what, cause=cause)


def _agree(each: Remembered, found: Recorded, done: Recovery, client: TextRedis) -> None:
    match each.end, found.status:
        case (Status.CANCELLED, Status.CONFIRMED):
            # PostgreSQL lost the cancellation.
            fulfilment.cancel(each.order.id, client=client)
            done.booked += 1
        case (Status.CANCELLED, Status.CANCELLED):
            fulfilment.settle_again(each.order.id, client=client)
            done.told += 1
        case (Status.QUEUED, _) | (Status.CONFIRMED, Status.CANCELLED):
            fulfilment.settle_again(each.order.id, client=client)
            done.told += 1
        case _:
            what = f"order {each.order.id} is {each.status} in Redis and {found.status} in PostgreSQL"
            done.differences.append(
                Difference(what=what, cause="decided twice, before and after the restore")
            )


def _publish_all(client: TextRedis, goes_on: Callable[[], None]) -> None:
    """Show what PostgreSQL has of every SKU, and nothing of SKUs that it does not have any more."""
    for pattern in (keys.stock("*"), keys.version("*")):
        prefix = len(pattern) - 1
        for names in _batches(_found(client, pattern)):
            goes_on()
            stock.refresh(client, [name[prefix:] for name in names])
    after = ""
    while skus := _skus_after(after):
        goes_on()
        stock.refresh(client, skus)
        after = skus[-1]


def _skus_after(sku: str) -> list[str]:
    with store_faults():
        return [found for (found,) in rows("skus_after", after=sku, limit=BATCH)]


def _batches(names: Iterable[str]) -> Iterator[list[Any]]:
    names = iter(names)
    while batch := list(islice(names, BATCH)):
        yield batch
