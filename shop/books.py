"""The books: what PostgreSQL decides about orders. A row, once written, is the truth; Redis follows it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
from django.db import DataError, IntegrityError
from psycopg.errors import CheckViolation, NotNullViolation

from shop.domain import LineShortage, Order, Reason, ReasonCode, Status
from shop.stores import rows, store_faults
from workers.fail_points import reach

_json = msgspec.json.Encoder()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is to be written about an order. `token`: of the reservation that a confirmed order spends, else ''."""

    order: Order
    status: Status
    token: str = ""
    reason: Reason | None = None


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What the books say about an order, whoever wrote it. `since_ms`: Unix time since when it is so."""

    status: Status
    since_ms: int
    token: str
    reason: Reason | None
    fingerprint: str


class Refused(Exception):
    """The books will not take a decision: more units than are on sale, a SKU that does not exist, or unstorable text."""


def record(decisions: Sequence[Decision]) -> dict[str, Recorded]:
    """Write decisions in one transaction: all, or none and `Refused`.

    An order that has a row already keeps it, and its row is what is returned: of two workers with one order, the second
    learns what the first decided. Raises `StoreUnavailable` with nothing known; asking again is safe.
    """
    now_ms = int(time.time() * 1000)
    ordered = sorted(decisions, key=lambda decision: decision.order.id)
    with store_faults():
        try:
            reach("worker.before_commit")
            fresh = {str(row[0]) for row in rows("persist", **_parameters(ordered, now_ms))}
            reach("worker.after_commit")
        except (IntegrityError, DataError) as error:
            if isinstance(error.__cause__, CheckViolation | NotNullViolation) or isinstance(error, DataError):
                raise Refused(str(error)) from error
            raise
        known = recorded([d.order.id for d in ordered if d.order.id not in fresh])
    return known | {
        d.order.id: Recorded(
            status=d.status,
            since_ms=now_ms,
            token=d.token,
            reason=d.reason,
            fingerprint=d.order.fingerprint,
        )
        for d in ordered
        if d.order.id in fresh
    }


def recorded(ids: Sequence[str]) -> dict[str, Recorded]:
    """What the books say about these orders; those without a row are left out."""
    if not ids:
        return {}
    with store_faults():
        return {
            str(order_id): Recorded(
                status=Status(status),
                since_ms=round(updated_at.timestamp() * 1000),
                token=token,
                reason=msgspec.convert(_loaded(reason), Reason) if reason else None,
                fingerprint=fingerprint,
            )
            for order_id, status, updated_at, token, reason, fingerprint in rows("recorded", ids=list(ids))
        }


def _loaded(reason: object) -> object:
    return msgspec.json.decode(reason) if isinstance(reason, str) else reason


def _parameters(decisions: Sequence[Decision], now_ms: int) -> dict[str, object]:
    orders = [decision.order for decision in decisions]
    lines = [(order.id, at, line) for order in orders for at, line in enumerate(order.lines)]
    return {
        "ids": _array(order.id for order in orders),
        "clients": _array(order.client for order in orders),
        "statuses": _array(decision.status.value for decision in decisions),
        "customers": _array(order.customer for order in orders),
        "references": _array(order.reference for order in orders),
        "fingerprints": _array(order.fingerprint for order in orders),
        "reservations": _array(decision.token for decision in decisions),
        "reasons": _array(_json.encode(d.reason).decode() if d.reason else None for d in decisions),
        "ended_ms": now_ms,
        "accepted_ms": _array(str(order.accepted_at_ms) for order in orders),
        "line_orders": _array(order_id for order_id, _, _ in lines),
        "positions": _array(str(at) for _, at, _ in lines),
        "skus": _array(line.sku for _, _, line in lines),
        "quantities": _array(str(line.quantity) for _, _, line in lines),
    }


def _array(elements: Iterable[str | None]) -> str:
    """PostgreSQL's text form of an array (its documentation, 8.15.6); the driver takes ten times as long for it."""
    quoted = (
        "NULL" if element is None else '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for element in elements
    )
    return "{" + ",".join(quoted) + "}"


def shortages(order: Order) -> Reason | None:
    """Why the books can't confirm an order now, or None where they can."""
    with store_faults():
        free = {sku: units for sku, _, _, units in rows("levels", skus=order.skus)}
    unknown = [LineShortage(line.sku, line.quantity, 0) for line in order.lines if line.sku not in free]
    if unknown:
        return Reason(ReasonCode.UNKNOWN_SKU, tuple(unknown))
    short = [
        LineShortage(line.sku, line.quantity, max(0, free[line.sku]))
        for line in order.lines
        if free[line.sku] < line.quantity
    ]
    return Reason(ReasonCode.INSUFFICIENT_STOCK, tuple(short)) if short else None


def cancel(order_id: str) -> None:
    """Mark a confirmed order cancelled and return its units, once. Without a row, or with another end, nothing changes.

    Raises `StoreUnavailable`.
    """
    with store_faults():
        rows("cancel", id=order_id)


def skus_of(order_id: str) -> list[str]:
    """The SKUs of an order that has a row."""
    with store_faults():
        return [sku for (sku,) in rows("order_skus", id=order_id)]
