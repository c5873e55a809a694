"""Comparing Redis with PostgreSQL, and PostgreSQL with its own ledger, while orders flow.

Each SKU should satisfy `estoque = on sale - confirmed - reserved`. What differs is looked at again under the SKU's lock,
explained, and mended only where the cause is known.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.db import connection, transaction

from shop import keys, stock
from shop.domain import Order
from shop.stores import TextRedis, rows, sql, store_faults
from workers.fail_points import reach

#: SKUs compared in one go.
COMPARE_BATCH = 1_000
#: How long a suspicious SKU is kept to ourselves at most, waiting for those before us.
LOCK_WAIT_S = 6.0
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
    """Compare every SKU; `repair`: mend differences of known cause; `ledger`: also hold the counters against every movement.

    Raises `StoreUnavailable`.
    """
    report = Report()
    with store_faults():
        (total,) = rows("count_products")[0]
        for skus in _batches():
            suspects = _suspects(client, skus)
            report.differences += [found for sku in suspects if (found := _examine(client, sku, repair))]
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


def _reserved(client: TextRedis) -> list[tuple[str, str, str, int]]:
    """Open reservations, flat: owner, token, SKU, units."""
    flat = []
    for owner, packed in client.hgetall(keys.RESERVATIONS).items():
        token, _, *lines = msgspec.json.decode(packed)
        flat += [(owner, token, sku, int(n)) for sku, n in zip(lines[::2], lines[1::2], strict=True)]
    return flat


def _suspects(client: TextRedis, skus: list[str]) -> list[str]:
    """SKUs that differ at a quick look, without locks: most only because an order was on its way between two reads."""
    reserved: dict[str, int] = {}
    for _, _, sku, units in _reserved(client):
        reserved[sku] = reserved.get(sku, 0) + units
    free = {sku: units for sku, _, _, units in rows("levels", skus=skus)}
    counters = dict(zip(skus, client.mget([keys.stock(sku) for sku in skus]), strict=True))
    return [
        sku
        for sku in skus
        if counters[sku] is not None and counters[sku] != str(free.get(sku, 0) - reserved.get(sku, 0))
    ]


def _examine(client: TextRedis, sku: str, repair: bool) -> Difference | None:
    """Look again with the SKU to ourselves. A counter that is missing is no difference: it is loaded when needed."""
    holder = str(uuid.uuid4())
    try:
        with stock.locks(client, holder, [sku], patience_s=LOCK_WAIT_S):
            return _explain(client, sku, repair)
    except stock.Locked:
        return None  # busy selling; the next reconcile looks again


def _explain(client: TextRedis, sku: str, repair: bool) -> Difference | None:
    before = (client.get(keys.stock(sku)), client.hgetall(keys.level(sku)), _held(client, sku))
    owners = sorted({owner for owner, *_ in before[2]})
    snapshot = rows("load", skus=[sku], ids=owners)
    if before != (client.get(keys.stock(sku)), client.hgetall(keys.level(sku)), _held(client, sku)):
        return None  # somebody whose lock ran out, or a movement, is at work: the next reconcile looks again
    counter, level, held = before
    _, _, version, units, free, _ = next(row for row in snapshot if row[0] == "level")
    counted = {(row[1], row[5]) for row in snapshot if row[0] == "counted"}
    open_units = sum(r[3] for r in held if (r[0], r[1]) not in counted)
    expected = free - open_units
    if counter is None or counter == str(expected):
        return None
    what = f"{sku}: Redis has {counter} units free, PostgreSQL {free} less {open_units} reserved"
    behind = units - int(level.get("units", units))
    if (
        int(level.get("version", 0)) < version
        and counter.lstrip("-").isdigit()
        and int(counter) + behind == expected
    ):
        if repair:
            reach("reconcile.before_repair")
            stock.sync_levels(client, [sku])
        return Difference(what=what, cause="a stock movement has not reached Redis", mended=repair)
    if not counter.lstrip("-").isdigit():
        if repair:
            reach("reconcile.before_repair")
            stock.unload(client, [sku])
        return Difference(what=what, cause="the counter is no number", mended=repair)
    return Difference(what=what, cause="")


def _held(client: TextRedis, sku: str) -> list[tuple[str, str, str, int]]:
    return sorted(reservation for reservation in _reserved(client) if reservation[2] == sku)


def _stale_locks(client: TextRedis, skus: list[str]) -> list[Difference]:
    """Locks of these SKUs without an expiry: none of ours; they would stop their SKU for ever.

    They are looked for by name: to search all keys, which after a day of sales are millions, Redis would need seconds.
    """
    holders = client.mget([keys.lock(sku) for sku in skus])
    return [
        Difference(what=f"{keys.lock(sku)} has no expiry, held by {holder}", cause="")
        for sku, holder in zip(skus, holders, strict=True)
        if holder is not None and client.pttl(keys.lock(sku)) == -1
    ]


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
