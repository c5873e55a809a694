"""The buyer's orders: what became of one, its cancelling, and the last ones.

Nobody sees or cancels another buyer's, or hears that it is there.
"""

import asyncio
import uuid
from typing import Final

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponseBase
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from shop import cancellation, results, waiting_line
from shop.cancellation import Cancellation
from shop.domain import STOREFRONT, Line, ReasonCode, Status
from shop.pages.answers import lead_to, may_be_away, page
from shop.pages.buyer import Buyer
from shop.pages.showing import total_of, with_offers
from shop.results import OrderState
from shop.stores import StoreUnavailable

#: What a queued or confirmed order is shown as while it is being cancelled.
CANCELLING: Final = "cancelling"
_CANCELLABLE: Final = frozenset({Status.QUEUED, Status.CONFIRMED})


async def order_of(buyer: Buyer, order_id: str) -> OrderState | None:
    """The buyer's order, None where there is none (or it is somebody else's). Raises `StoreUnavailable`."""
    state = await results.find(order_id, STOREFRONT)
    return state if state is not None and state.order.customer == buyer.id else None


async def is_wish_recorded(order_id: str) -> bool:
    """Whether the order is to be cancelled; no, where nobody can tell. To be asked before the order's state.

    Both change in one step. Whoever asked the other way round could read `confirmed`, then that no wish is left, and show as
    the buyer's what was cancelled between the two.
    """
    try:
        return await cancellation.is_requested(order_id)
    except StoreUnavailable:
        return False


def shown_as(state: OrderState, *, is_wish_recorded: bool) -> str:
    """The word for where an order is: its status, or `CANCELLING`."""
    return CANCELLING if is_wish_recorded and state.status in _CANCELLABLE else state.status.value


@require_safe
@may_be_away
async def order(request: HttpRequest, order_id: uuid.UUID) -> HttpResponseBase:
    """`/orders/<id>`: what became of the buyer's order."""
    buyer = Buyer.of(request)
    is_wished = await is_wish_recorded(str(order_id))
    state = await order_of(buyer, str(order_id))
    if state is None:
        raise Http404
    shown = shown_as(state, is_wish_recorded=is_wished)
    standing = None
    if shown == Status.QUEUED:
        standing = await waiting_line.line.standing(state.order.id, state.order.accepted_at_ms)
    lines = await with_offers(state.order.lines, _left(state))
    remaining = await with_offers(what_is_left(state)) if state.status is Status.REJECTED else []
    return page(
        request,
        buyer,
        "order",
        id=state.order.id,
        number=state.order.id[:8],
        state=shown,
        state_words="Being cancelled" if shown == CANCELLING else shown.title(),
        is_under_way=shown in (Status.QUEUED, CANCELLING),
        is_cancellable=shown in _CANCELLABLE,
        lines=lines,
        total=total_of(lines),
        standing=standing,
        is_unknown=state.reason is not None and state.reason.code is ReasonCode.UNKNOWN_SKU,
        remaining=remaining,
        remaining_total=total_of(remaining),
    )


@require_http_methods(["GET", "HEAD", "POST"])
@may_be_away
async def cancel(request: HttpRequest, order_id: uuid.UUID) -> HttpResponseBase:
    """`/orders/<id>/cancel`: GET asks whether the buyer means it, POST has the order cancelled and leads to it."""
    buyer = Buyer.of(request)
    is_wished = await is_wish_recorded(str(order_id))
    state = await order_of(buyer, str(order_id))
    if state is None:
        raise Http404
    if request.method == "POST":
        if await cancellation.request_cancel(str(order_id), STOREFRONT) is Cancellation.REFUSED:
            messages.info(
                request, "This order had ended before it could be cancelled. Nothing was taken for it."
            )
    elif state.status in _CANCELLABLE and not is_wished:
        lines = await with_offers(state.order.lines)
        return page(
            request,
            buyer,
            "cancel",
            id=state.order.id,
            number=state.order.id[:8],
            state=state.status.value,
            lines=lines,
            total=total_of(lines),
        )
    return lead_to(request, reverse("order", args=[order_id]))


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
