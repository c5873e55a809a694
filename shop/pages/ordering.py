"""Placing buyers' orders: a basket, one product at one tap, or what was left of an order that was refused.

They take the way of all orders (`shop.intake`) as those of one client, the storefront; each carries its buyer's name as
customer, and is shown to nobody else.

# Note [Keys of buyers]
A key names one intended order, and lives in the buyer's cookie until the answer to an order has arrived. Every form carries
it, so whatever repeats a form (a second tap, a reload, the way back, a lost answer) repeats the order under its key, and
meets the order that exists. A one-tap key is the buyer's key and the SKU, so that forms of several windows do not meet.
"""

import asyncio
import hashlib
import time
import uuid

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.urls import reverse
from django.views.decorators.http import require_POST

from shop import intake
from shop.domain import Line, Status, is_sku
from shop.intake import Accepted, Intake, IntakePaused, QueueFull, RateLimited, Replayed, Reused
from shop.pages.answers import later, lead_to, may_be_away
from shop.pages.buyer import BasketFull, Buyer, is_key
from shop.pages.orders import CLIENT, order_of, orders, what_is_left
from shop.pages.storefront import NO_QUANTITY, whole
from shop.stores import StoreUnavailable
from shop.web import metrics
from shop.web.orders import PATIENCE_S, gate
from shop.web.problems import Kind, Problem


async def collection(request: HttpRequest) -> HttpResponseBase:
    """`/orders`: GET lists, POST places."""
    return await (place(request) if request.method == "POST" else orders(request))


@require_POST
@may_be_away
async def place(request: HttpRequest) -> HttpResponseBase:
    """`POST /orders`: order one product (`sku`, `quantity`), or else the basket, under the form's `key`."""
    buyer = Buyer.of(request)
    key, sku = request.POST.get("key", ""), request.POST.get("sku")
    if sku is not None:
        units = whole(request.POST.get("quantity", "1"))
        if not is_key(key) or not is_sku(sku) or units is None:
            messages.warning(request, NO_QUANTITY)
            return lead_to(request, reverse("product", args=[sku]) if is_sku(sku) else reverse("shop"))
        return await _order(request, buyer, one_tap_key(key, sku), [Line(sku, units)])
    if key == buyer.key and buyer.basket:
        return await _order(request, buyer, key, buyer.lines)
    return await _old_form(request, buyer, key)


def one_tap_key(key: str, sku: str) -> str:
    """The key of ordering one product at once (Note [Keys of buyers])."""
    return f"{key}.{hashlib.blake2b(sku.encode(), digest_size=8).hexdigest()}"


async def _old_form(request: HttpRequest, buyer: Buyer, key: str) -> HttpResponseBase:
    """A basket's form that was sent before, or is from before the basket changed."""
    order_id = intake.derived_id("order", CLIENT, _full_key(buyer, key))
    if is_key(key) and await order_of(buyer, order_id) is not None:
        messages.info(request, "This is the order that you have placed. Nothing was ordered twice.")
        return lead_to(request, reverse("order", args=[order_id]))
    messages.warning(
        request, "The basket has changed since that page was loaded. Please look at it once more."
    )
    return lead_to(request, reverse("basket"))


@require_POST
@may_be_away
async def again(request: HttpRequest, order_id: uuid.UUID) -> HttpResponseBase:
    """`POST /orders/<id>/again`: order what is left of a rejected order, or put it into the basket (`to=basket`).

    The new order's key derives from the old order, so that repeating this makes no third one.
    """
    buyer = Buyer.of(request)
    state = await order_of(buyer, str(order_id))
    if state is None:
        raise Http404
    lines = what_is_left(state)
    if state.status not in (Status.REJECTED, Status.FAILED) or not lines:
        return lead_to(request, reverse("order", args=[order_id]))
    if request.POST.get("to") != "basket":
        return await _order(request, buyer, f"again.{order_id.hex}", lines)
    try:
        for line in lines:
            buyer.put(line.sku, line.quantity)
    except BasketFull:
        messages.warning(request, "The basket is full: not everything fits into it.")
    response = lead_to(request, reverse("basket"))
    buyer.keep(response)
    return response


async def _order(request: HttpRequest, buyer: Buyer, key: str, lines: list[Line]) -> HttpResponseBase:
    """Have an order taken in, and lead to it."""
    now = asyncio.get_running_loop().time()
    order = intake.new_order(
        client=CLIENT,
        key=_full_key(buyer, key),
        lines=lines,
        customer=buyer.id,
        reference=None,
        now_ms=int(time.time() * 1000),
    )
    try:
        with gate.passage(now):
            answer = await intake.accept(order, _full_key(buyer, key), now + PATIENCE_S)
    except Problem as problem:
        return _busy(request, buyer, problem.kind)
    except (StoreUnavailable, TimeoutError):
        metrics.count_refusal("unavailable")
        return _busy(request, buyer, Kind.UNAVAILABLE)
    return _taken_in(request, buyer, key, answer)


def _taken_in(request: HttpRequest, buyer: Buyer, key: str, answer: Intake) -> HttpResponseBase:
    match answer:
        case RateLimited(wait_ms):
            return _busy(request, buyer, Kind.RATE_LIMITED, wait_s=-(-wait_ms // 1000))
        case QueueFull():
            gate.found_full(asyncio.get_running_loop().time())
            return _busy(request, buyer, Kind.QUEUE_FULL)
        case IntakePaused():
            return _busy(request, buyer, Kind.INTAKE_PAUSED)
        case Reused(order_id):
            messages.warning(
                request,
                "This order was placed before you changed it. It is as it was; your changes are not in it.",
            )
        case Replayed(order_id):
            if not key.startswith(buyer.key):
                messages.info(request, "This is the order that you have placed. Nothing was ordered twice.")
        case Accepted(order_id):
            pass
    buyer.ordered(order_id)
    # A basket that was changed after its order was placed stays, for another order.
    buyer.leave(with_empty_basket=key == buyer.key and not isinstance(answer, Reused))
    response = lead_to(request, reverse("order", args=[order_id]))
    buyer.keep(response)
    return response


def _full_key(buyer: Buyer, key: str) -> str:
    """The idempotency key of a buyer's order: nobody else's form can name it."""
    return f"{buyer.id}.{key}"


def _busy(request: HttpRequest, buyer: Buyer, kind: Kind, wait_s: int = 0) -> HttpResponse:
    """The order was not taken in now. The form is offered once more, under its key."""
    fields = [(name, value) for name, value in request.POST.items() if name != "csrfmiddlewaretoken"]
    return later(
        request,
        buyer,
        "busy",
        kind,
        wait_s,
        fields=fields,
        is_full=kind is not Kind.UNAVAILABLE,
        is_paused=kind is Kind.INTAKE_PAUSED,
    )
