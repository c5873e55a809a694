"""One order and one product that the API's documentation tells about, and what can go wrong with them."""

from datetime import UTC, datetime
from typing import Final

import msgspec

from shop.domain import LineShortage, Reason, ReasonCode, Status
from shop.web.faults import order_faults, stock_movement_faults
from shop.web.json_body import JsonObject
from shop.web.parsing import cursor_after
from shop.web.problems import Kind, Problem
from shop.web.schemas import (
    OrderAnswer,
    OrderItem,
    OrderLine,
    OrderRequest,
    ProductAnswer,
    ProductPage,
    StockMovementAnswer,
    StockMovementRequest,
)

ORDER_ID: Final = "0b8f6f0e-5f0c-8d1e-9a55-3f2f6c1f9d10"
_NOON: Final = datetime(2026, 3, 2, 12, 0, 0, 250_000, tzinfo=UTC)
_SOON: Final = datetime(2026, 3, 2, 12, 0, 0, 310_000, tzinfo=UTC)

ETAG: Final = '"9c1185a5c5e9fc54612808977"'

ORDER: Final = OrderRequest(
    items=[OrderItem(sku="MUG-001", quantity=6), OrderItem(sku="TEA-MNT-080", quantity=2)],
    customer="17850",
    reference="web-536365",
)
QUEUED: Final = OrderAnswer(
    id=ORDER_ID,
    status=Status.QUEUED,
    items=[OrderLine(item.sku, item.quantity) for item in ORDER.items],
    customer=ORDER.customer,
    reference=ORDER.reference,
    created_at=_NOON,
    updated_at=_NOON,
    href=f"/api/v1/orders/{ORDER_ID}",
)
CONFIRMED: Final = msgspec.structs.replace(QUEUED, status=Status.CONFIRMED, updated_at=_SOON)
CANCELLED: Final = msgspec.structs.replace(QUEUED, status=Status.CANCELLED, updated_at=_SOON)
REJECTED: Final = msgspec.structs.replace(
    QUEUED,
    status=Status.REJECTED,
    updated_at=_SOON,
    reason=Reason(ReasonCode.INSUFFICIENT_STOCK, (LineShortage("MUG-001", requested=6, available=4),)),
)
PRODUCT: Final = ProductAnswer(sku="MUG-001", name="Stoneware mug Fjord, 300 ml", price="11.90", available=4)
MOVEMENT: Final = StockMovementRequest(delta=10, reason="delivery 4711")

MOVED: Final = StockMovementAnswer(
    id="48213", sku=PRODUCT.sku, delta=MOVEMENT.delta, reason=MOVEMENT.reason, created_at=_NOON, available=14
)
PAGE: Final = ProductPage(
    items=[PRODUCT], next=f"/api/v1/products?q=Fjord&limit=1&cursor={cursor_after(PRODUCT.sku)}"
)


def _an_object(**members: object) -> JsonObject:
    return tuple(members.items())


_BAD_ITEMS: Final = [
    _an_object(sku=" MUG-001", quantity=6.0),
    _an_object(sku="TEA-MNT-080", quantity=0.0),
]
_ERRORS: Final = {
    Kind.INVALID_ORDER: tuple(order_faults(_an_object(items=_BAD_ITEMS), max_lines=2)),
    Kind.INVALID_STOCK_MOVEMENT: tuple(stock_movement_faults(_an_object(delta=0.0, reason=MOVEMENT.reason))),
}


def problem(kind: Kind) -> Problem:
    """A problem of the kind as a client may meet it."""
    return Problem(kind=kind, errors=_ERRORS.get(kind, ()))
