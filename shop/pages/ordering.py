"""Placing buyers' orders: a basket, one product at one tap, or what was left of an order that was refused.

They take the way of all orders (`shop.intake`) as those of one client, the storefront; each carries its buyer's name as
customer, and is shown to nobody else.

# Note [Keys of buyers]
A key names one intended order, and stays the same until the answer to that order has arrived. What repeats an order (a
second tap, a reload, the way back, another window, a lost answer) repeats it under its key, and meets the order that exists.

Each kind of order has keys of its own, kept in the buyer's cookie, so that no other order's answer has them move on. The
basket has one, which changes when the answer to its order arrives. A product at one tap has a number, which counts up then.
What is left of a rejected order has the rejected one's id. Forms carry key or number: one of the past can only mean the
order that it has placed, and orders nothing.

The cookie has room for the numbers of fifty products. The one that was bought longest ago is forgotten, and products
without a number go on from its, so that none is used twice. Only when that raises their number, which is at most once in
fifty products, is a lost answer from before forgotten.
"""

import asyncio
import time
import uuid
from typing import Final

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.urls import reverse
from django.views.decorators.http import require_POST

from shop import intake
from shop.domain import STOREFRONT, Line, Status, is_sku
from shop.intake import Accepted, Intake, IntakePaused, QueueFull, RateLimited, Replayed, Reused
from shop.pages.answers import arrived_at, later, lead_to, may_be_away
from shop.pages.buyer import BasketFull, Buyer, Tap, is_key
from shop.pages.orders import order_of, orders, what_is_left
from shop.pages.storefront import NO_QUANTITY, whole
from shop.stores import StoreUnavailable
from shop.web import metrics
from shop.web.orders import PATIENCE_S, gate
from shop.web.problems import Kind, Problem

_PLACED_ALREADY: Final = "This is the order that you have placed. Nothing was ordered twice."


async def collection(request: HttpRequest) -> HttpResponseBase:
    """`/orders`: GET lists, POST places."""
    return await (place(request) if request.method == "POST" else orders(request))


@require_POST
@may_be_away
async def place(request: HttpRequest) -> HttpResponseBase:
    """`POST /orders`: order one product (`sku`, `quantity`, `tap`), or else the basket, under the form's `key`."""
    buyer = Buyer.of(request)
    sku, key = request.POST.get("sku"), request.POST.get("key", "")
    if sku is not None:
        return await _buy_now(request, buyer, sku)
    if key == buyer.key and buyer.basket:
        return await _order(request, buyer, key, buyer.lines)
    return await _of_the_past(request, buyer, key if is_key(key) else None, reverse("basket"))


async def _buy_now(request: HttpRequest, buyer: Buyer, sku: str) -> HttpResponseBase:
    units = whole(request.POST.get("quantity", "1"))
    number = whole(request.POST.get("tap", ""), least=0)
    back = reverse("product", args=[sku]) if is_sku(sku) else reverse("shop")
    if units is None or not is_sku(sku):
        messages.warning(request, NO_QUANTITY)
        return lead_to(request, back)
    if number is None:
        return await _of_the_past(request, buyer, None, back)
    tap = Tap(sku, number)
    if buyer.is_past(tap):
        return await _of_the_past(request, buyer, tap.key, back)
    return await _order(request, buyer, tap.key, [Line(sku, units)], tap)


async def _of_the_past(request: HttpRequest, buyer: Buyer, key: str | None, back: str) -> HttpResponseBase:
    """A form that was sent before, or is of a page too old to order by: to the order of its key, or else `back`."""
    if key:
        of_key = ("order", STOREFRONT, _full_key(buyer, key))
        for order_id in (intake.derived_id(*of_key), *intake.ids_before(*of_key)):
            if await order_of(buyer, order_id) is not None:
                messages.info(request, _PLACED_ALREADY)
                return _to_order(request, buyer, order_id)
    messages.warning(
        request,
        "Something has changed since that page was loaded. Nothing was ordered; please look once more.",
    )
    return lead_to(request, back)


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


async def _order(
    request: HttpRequest, buyer: Buyer, key: str, lines: list[Line], tap: Tap | None = None
) -> HttpResponseBase:
    """Have an order taken in, and lead to it."""
    now = asyncio.get_running_loop().time()
    deadline = arrived_at(request, now) + PATIENCE_S
    order = intake.new_order(
        client=STOREFRONT,
        key=_full_key(buyer, key),
        lines=lines,
        customer=buyer.id,
        reference=None,
        now_ms=int(time.time() * 1000),
    )
    try:
        with gate.passage(now, deadline):
            answer = await intake.accept(order, _full_key(buyer, key), deadline)
    except Problem as problem:
        return _busy(request, buyer, problem.kind)
    except (StoreUnavailable, TimeoutError):
        metrics.count_refusal("unavailable")
        return _busy(request, buyer, Kind.UNAVAILABLE)
    return _taken_in(request, buyer, key, answer, tap)


def _taken_in(
    request: HttpRequest, buyer: Buyer, key: str, answer: Intake, tap: Tap | None
) -> HttpResponseBase:
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
            messages.info(request, _PLACED_ALREADY)
        case Accepted(order_id):
            pass
    if tap:
        buyer.tapped(tap)
    elif key == buyer.key:
        # A basket that was changed after its order was placed stays, for another order.
        buyer.basket_ordered(as_it_is=not isinstance(answer, Reused))
    return _to_order(request, buyer, order_id)


def _to_order(request: HttpRequest, buyer: Buyer, order_id: str) -> HttpResponse:
    buyer.ordered(order_id)
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
