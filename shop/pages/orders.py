"""The buyer's orders: what became of one, and the last ones. Nobody sees another buyer's, or hears that it is there."""

import asyncio
import uuid
from typing import Final

from django.http import Http404, HttpRequest, HttpResponseBase
from django.views.decorators.http import require_safe

from shop import results, waiting_line
from shop.domain import Line, ReasonCode, Status
from shop.pages.answers import may_be_away, page
from shop.pages.buyer import Buyer
from shop.pages.showing import total_of, with_offers
from shop.results import OrderState

#: The client that owns the buyers' orders.
CLIENT: Final = "storefront"


async def order_of(buyer: Buyer, order_id: str) -> OrderState | None:
    """The buyer's order, None where there is none (or it is somebody else's). Raises `StoreUnavailable`."""
    state = await results.find(order_id, CLIENT)
    return state if state is not None and state.order.customer == buyer.id else None


@require_safe
@may_be_away
async def order(request: HttpRequest, order_id: uuid.UUID) -> HttpResponseBase:
    """`/orders/<id>`: what became of the buyer's order."""
    buyer = Buyer.of(request)
    state = await order_of(buyer, str(order_id))
    if state is None:
        raise Http404
    shown = await with_offers(state.order.lines, _left(state))
    standing = None
    if state.status is Status.QUEUED:
        standing = await waiting_line.line.standing(state.order.id, state.order.accepted_at_ms)
    remaining = await with_offers(what_is_left(state)) if state.status is Status.REJECTED else []
    return page(
        request,
        buyer,
        "order",
        id=state.order.id,
        number=state.order.id[:8],
        state=state.status.value,
        lines=shown,
        total=total_of(shown),
        standing=standing,
        is_unknown=state.reason is not None and state.reason.code is ReasonCode.UNKNOWN_SKU,
        remaining=remaining,
        remaining_total=total_of(remaining),
    )


def what_is_left(state: OrderState) -> list[Line]:
    """The lines of an order that could be had when it was rejected."""
    short = _left(state)
    lines = [Line(line.sku, short.get(line.sku, line.quantity)) for line in state.order.lines]
    return [line for line in lines if line.quantity]


def _left(state: OrderState) -> dict[str, int]:
    """By SKU of each line that was short: the units that were left."""
    return {short.sku: short.available for short in state.reason.lines} if state.reason else {}


@require_safe
@may_be_away
async def orders(request: HttpRequest) -> HttpResponseBase:
    """`GET /orders`: the buyer's last orders."""
    buyer = Buyer.of(request)
    found = await asyncio.gather(*(order_of(buyer, order_id) for order_id in buyer.orders))
    shown = [
        {
            "id": state.order.id,
            "number": state.order.id[:8],
            "status": state.status.value,
            "units": sum(line.quantity for line in state.order.lines),
            "skus": state.order.skus,
        }
        for state in found
        if state is not None
    ]
    return page(request, buyer, "orders", orders=shown)
