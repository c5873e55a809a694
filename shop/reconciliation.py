"""Comparing Redis with PostgreSQL, and PostgreSQL with its own ledger, while orders flow.

At rest `estoque` is what PostgreSQL has free of each SKU. What differs is looked at again and explained; to repair it is to
publish what PostgreSQL has, whatever the cause.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.db import connection, transaction

from shop import books, keys, stock
from shop.books import Stock
from shop.domain import Order
from shop.stock import Seen
from shop.stores import TextRedis, rows, sql, store_faults
from workers.fail_points import reach

#: SKUs compared in one go.
COMPARE_BATCH = 1_000
#: Orders without an end whose SKUs are looked at.
IN_FLIGHT_MOST = 10_000
#: An order open for longer than this is told.
OVERDUE_MS = 120_000
JUST_DONE_MS = 30_000

_document = msgspec.json.Decoder(Order)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not as it should be. `cause`: what explains it, '' where nothing known does."""

    what: str
    cause: str
    mended: bool = False
    is_oversold: bool = False

    def __str__(self) -> str:
        end = "mended" if self.mended else "left as it is"
        return f"{self.what}: {self.cause or 'cause unknown'} ({end})"


@dataclass(kw_only=True)
class Report:
    """What a reconcile found. `skus`: how many were compared; `open_orders`: how many are in flight."""

    skus: int = 0
    open_orders: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether everything agrees, or was made to."""
        return not self.left

    @property
    def left(self) -> int:
        """Differences that were not mended."""
        return sum(not difference.mended for difference in self.differences)

    @property
    def oversold(self) -> int:
        """SKUs of which PostgreSQL has confirmed more than was put on sale."""
        return sum(difference.is_oversold for difference in self.differences)

    def summary(self) -> str:
        """The verdict in a line."""
        return (
            f"{self.skus} SKUs compared, {self.open_orders} orders in flight, "
            f"{len(self.differences)} differences, {self.left} left"
        )


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the last reconcile found, as Redis keeps it. `at_ms`: Unix time of its end; the others: see `Report`."""

    at_ms: int
    clean: bool
    summary: str
    skus: int = 0
    differences: int = 0
    left: int = 0
    oversold: int = 0


def last_verdict(packed: str | None) -> Verdict | None:
    """The verdict in `keys.LAST_RECONCILE`; None where there is none yet, or none that can be read."""
    try:
        return msgspec.json.decode(packed or "", type=Verdict)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def was_just_done(client: TextRedis, now_ms: int) -> bool:
    """Whether there is a verdict of the last half minute: wishes for one pile up while no worker runs."""
    with store_faults():
        last = last_verdict(client.mget(keys.LAST_RECONCILE)[0])  # which is overwritten, whatever it is
    return last is not None and 0 <= now_ms - last.at_ms < JUST_DONE_MS


def reconcile(
    client: TextRedis,
    *,
    repair: bool = False,
    ledger: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Compare every SKU; `repair`: make Redis agree; `ledger`: also hold the counters against every movement.

    Raises `StoreUnavailable`.
    """
    report = Report()
    with store_faults():
        (total,) = rows("count_products")[0]
        for skus in _batches():
            report.differences += _differences(client, skus, repair)
            report.differences += _stale_locks(client, skus)
            report.skus += len(skus)
            progress(report.skus, total)
        report.open_orders = client.zcard(keys.OPEN_ORDERS)
        report.differences += _overdue_orders(client)
        report.differences += _oversold()
        if ledger:
            report.differences += _ledger_differences()
        verdict = Verdict(
            at_ms=int(time.time() * 1000),
            clean=report.clean,
            summary=report.summary(),
            skus=report.skus,
            differences=len(report.differences),
            left=report.left,
            oversold=report.oversold,
        )
        client.set(keys.LAST_RECONCILE, msgspec.json.encode(verdict))
    return report


def _batches() -> Iterator[list[str]]:
    after = ""
    while skus := [sku for (sku,) in rows("skus_after", after=after, limit=COMPARE_BATCH)]:
        yield skus
        after = skus[-1]


def _differences(client: TextRedis, skus: list[str], repair: bool) -> list[Difference]:
    """What Redis shows of SKUs and PostgreSQL has not.

    Most that differ at a quick look do so because an order was on its way between two reads. So they are looked at again,
    between two looks at Redis that agree; what changes meanwhile is at work, and the next reconcile looks at it.
    """
    suspects = _that_differ(stock.seen(client, skus), books.stock_of(skus))
    before = stock.seen(client, suspects)
    found, in_flight = books.stock_of(suspects), _in_flight(client) if suspects else set()
    shown = stock.seen(client, suspects)
    differing = [
        sku
        for sku in _that_differ(shown, found)
        # Units of an order whose worker died are off the counter until another one settles it. A version that is ahead is
        # none of its doing, and may be what keeps it waiting: Redis calls it short, and is never set right.
        if shown[sku] == before[sku]
        and not shown[sku].holder
        and (sku not in in_flight or _is_ahead(shown[sku], found[sku]))
    ]
    if differing and repair:
        reach("reconcile.before_repair")
        if any(_is_ahead(shown[sku], found[sku]) for sku in differing):
            stock.begin_epoch(client)
        stock.refresh(client, differing)
    return [_difference(sku, shown[sku], found[sku], repair) for sku in differing]


def _that_differ(shown: Mapping[str, Seen], found: Mapping[str, Stock | None]) -> list[str]:
    """A counter that is missing is no difference: it is written when its SKU is first ordered."""
    return [
        sku for sku, has in found.items() if has and not shown[sku].is_missing and shown[sku].free != has.free
    ]


def _is_ahead(shown: Seen, found: Stock | None) -> bool:
    return found is not None and shown.version is not None and shown.version > found.version


def _difference(sku: str, shown: Seen, found: Stock | None, repair: bool) -> Difference:
    assert found is not None
    what = f"{sku}: Redis shows {shown.free} units free, PostgreSQL has {found.free}"
    return Difference(what=what, cause=_cause(shown, found), mended=repair)


def _cause(shown: Seen, found: Stock) -> str:
    if shown.free is None:
        return "the counter is no number"
    if shown.version is None:
        return "the counter has no version"
    if shown.version < found.version:
        return "a change of stock has not reached Redis"
    if shown.version > found.version:
        return "PostgreSQL went back"
    return "the counter was edited, or units of an order that is gone are still off it"


def _in_flight(client: TextRedis) -> set[str]:
    """SKUs of orders that have not ended, of those at least that wait longest."""
    order_ids = client.zrange(keys.OPEN_ORDERS, 0, IN_FLIGHT_MOST - 1)
    pipe = client.pipeline(transaction=False)
    for order_id in order_ids:
        pipe.hget(keys.order(order_id), "document")
    skus: set[str] = set()
    for document in pipe.execute(raise_on_error=False):
        try:
            skus.update(_document.decode(document or "").skus)
        except (msgspec.DecodeError, TypeError):
            continue  # an order without a record that can be read is reported by itself
    return skus


def _stale_locks(client: TextRedis, skus: list[str]) -> list[Difference]:
    """Locks of these SKUs that live for longer than any of ours: they stop their SKU for as long, or for ever.

    They are looked for by name: to search all keys, which after a day of sales are millions, Redis would need seconds.
    """
    holders = client.mget([keys.lock(sku) for sku in skus])
    found = []
    for sku, holder in zip(skus, holders, strict=True):
        left_ms = client.pttl(keys.lock(sku)) if holder is not None else 0
        if left_ms == -1 or left_ms > keys.LOCK_TTL_MS:
            until = "has no expiry" if left_ms == -1 else f"ends in {left_ms / 1000:,.0f} s"
            found.append(Difference(what=f"{keys.lock(sku)} {until}, held by {holder}", cause=""))
    return found


def _overdue_orders(client: TextRedis) -> list[Difference]:
    """Orders that should have ended long ago, told so that somebody looks at the workers."""
    found = []
    now_ms = int(time.time() * 1000)
    for order_id in client.zrange(keys.OPEN_ORDERS, 0, 50):
        changed, document = client.hmget(keys.order(order_id), "updated_at", "document")
        if changed is None or now_ms - int(changed) > OVERDUE_MS:
            cause = "it has no record" if changed is None else _cause_of_delay(client, document)
            found.append(Difference(what=f"order {order_id} is still open", cause=cause))
    return found


def _cause_of_delay(client: TextRedis, document: str | None) -> str:
    """Why an order with this document may still be open: its SKU's lock, also where no product has that SKU."""
    try:
        order = _document.decode(document or "")
    except msgspec.DecodeError:
        return "its record can't be read"
    stale = _stale_locks(client, sorted({line.sku for line in order.lines}))
    return "; ".join(lock.what for lock in stale) or "no worker got to it, or each one failed"


def _oversold() -> list[Difference]:
    """Products sold beyond what was on sale: a constraint forbids it, and this is to notice when it is not there."""
    return [
        Difference(what=f"{sku}: {confirmed} confirmed of {on_sale} on sale", cause="", is_oversold=True)
        for sku, on_sale, confirmed in rows("oversold")
    ]


def _ledger_differences() -> list[Difference]:
    """Products whose counters are not the sum of their movements, or not that of their confirmed orders' lines."""
    # For this transaction alone: behind a PgBouncer the session is anybody's.
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")
        cursor.execute(sql("ledger_differences"))
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return [
        Difference(
            what=f"{sku}: on sale {on_sale} (movements say {moved}), confirmed {confirmed} (orders say {ordered})",
            cause="",
        )
        for sku, on_sale, moved, confirmed, ordered in found
    ]
