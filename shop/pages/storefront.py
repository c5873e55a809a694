"""The storefront: products with the stock of this moment, a basket, one-tap buying, and what became of an order.

Buyers' orders take the way of all orders (`shop.intake`) as those of one client, the storefront; each carries its buyer's
name as customer, and is shown to nobody else.

# Note [Keys of buyers]
A key names one intended order, and lives in the buyer's cookie until the answer to an order has arrived. Every form carries
it, so whatever repeats a form (a second tap, a reload, the way back, a lost answer) repeats the order under its key, and
meets the order that exists. A one-tap key is the buyer's key and the SKU, so that forms of several windows do not meet.
"""

import asyncio
import hashlib
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from typing import Any, Final
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
)
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from shop import intake, offers, results, waiting_line
from shop.domain import QUANTITY_MAX, Line, ReasonCode, Status, is_sku
from shop.intake import Accepted, Intake, IntakePaused, QueueFull, RateLimited, Replayed, Reused
from shop.offers import Offer
from shop.pages.buyer import BASKET_LINES, COOKIE, BasketFull, Buyer, is_key
from shop.results import OrderState
from shop.stores import StoreUnavailable
from shop.web import metrics
from shop.web.orders import PATIENCE_S, gate
from shop.web.problems import Kind, Problem

#: The client that owns the buyers' orders.
CLIENT: Final = "storefront"
PRODUCTS_ON_A_PAGE: Final = 24
_SEARCH_MAX_LENGTH: Final = 64
#: From so many units on a product is shown as running out.
_FEW: Final = 10
#: Seconds until a page that could not be shown asks again by itself.
_LOOK_AGAIN_S: Final = 3

_View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


def stock_words(available: int) -> tuple[str, str]:
    """How a number of free units is shown: words, and the kind of badge."""
    if available <= 0:
        return "Sold out", "bad"
    if available <= _FEW:
        return f"Only {available} left", "warn"
    return f"{available:,} in stock", "good"


def money(amount: Decimal) -> str:
    """An amount as it is shown; prices with more than two places keep them."""
    exact = amount.quantize(Decimal("0.0001")).normalize()
    places = max(2, -int(exact.as_tuple().exponent))
    return f"{settings.CURRENCY}{exact:,.{places}f}"


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A product or a line as templates show it. Without `offer` the product is unknown or can't be told now."""

    sku: str
    units: int = 1
    offer: Offer | None = None
    left: int | None = None

    @property
    def name(self) -> str:
        return self.offer.name if self.offer else self.sku

    @property
    def price(self) -> str:
        return money(self.offer.price) if self.offer else ""

    @property
    def sum(self) -> str:
        return money(self.offer.price * self.units) if self.offer else ""

    @property
    def stock(self) -> tuple[str, str] | None:
        return stock_words(self.offer.available) if self.offer else None

    @property
    def count(self) -> str:
        return f"{self.units:,}"

    @property
    def is_short(self) -> bool:
        return self.left is not None


def _total(shown: Sequence[_Shown]) -> str:
    """The sum of all lines, '' where a price is not known."""
    if not shown or not all(each.offer for each in shown):
        return ""
    return money(sum((each.offer.price * each.units for each in shown if each.offer), Decimal(0)))


def _page(
    request: HttpRequest, buyer: Buyer, template: str, *, status: int = 200, **context: Any
) -> HttpResponse:
    """A page. Whoever is new gets a name with it, so that the first form has one."""
    response = render(request, f"storefront/{template}.html", {"buyer": buyer, **context}, status=status)
    if Buyer.of_cookie(request.COOKIES.get(COOKIE, "")) is None:
        buyer.keep(response)
    return response


def _may_be_away(view: _View) -> _View:
    """Say of a page that can't be shown without a store that it comes back by itself."""

    @wraps(view)
    async def answered(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return await view(request, *args, **kwargs)
        except (StoreUnavailable, TimeoutError):
            response = _page(request, Buyer.of(request), "away", status=503)
            response["Retry-After"] = Kind.UNAVAILABLE.headers["Retry-After"]
            if request.method == "GET":
                response["Refresh"] = str(_LOOK_AGAIN_S)
            return response

    return answered


@require_safe
@_may_be_away
async def products(request: HttpRequest) -> HttpResponseBase:
    """`/`: products on sale, a page at a time, or those that a search finds."""
    search = request.GET.get("q", "").replace("\0", "").strip()[:_SEARCH_MAX_LENGTH]
    after = request.GET.get("after", "").replace("\0", "")
    found = await offers.listed(search=search, after=after, limit=PRODUCTS_ON_A_PAGE + 1)
    shown = [_Shown(sku=offer.sku, offer=offer) for offer in found[:PRODUCTS_ON_A_PAGE]]
    following = ""
    if len(found) > PRODUCTS_ON_A_PAGE:
        following = "?" + urlencode({**({"q": search} if search else {}), "after": shown[-1].sku})
    return _page(
        request,
        Buyer.of(request),
        "products",
        products=shown,
        search=search,
        after=after,
        following=following,
    )


@require_safe
@_may_be_away
async def product(request: HttpRequest, sku: str) -> HttpResponseBase:
    """`/products/<sku>`"""
    offer = await offers.find(sku) if is_sku(sku) else None
    if offer is None:
        raise Http404
    return _page(request, Buyer.of(request), "product", product=_Shown(sku=sku, offer=offer))


@require_http_methods(["GET", "HEAD", "POST"])
async def basket(request: HttpRequest) -> HttpResponseBase:
    """`/basket`: what is in it. POST puts a SKU into it (`sku`, `quantity`), or changes it (`units of <sku>`, `remove`)."""
    buyer = Buyer.of(request)
    if request.method == "POST":
        _change(request, buyer)
        response = _go(request, reverse("basket"))
        buyer.keep(response)
        return response
    shown = await _with_offers(buyer.lines)
    return _page(request, buyer, "basket", lines=shown, total=_total(shown))


def _change(request: HttpRequest, buyer: Buyer) -> None:
    sku, remove = request.POST.get("sku"), request.POST.get("remove")
    for name, value in request.POST.items():
        wanted = name.removeprefix("units of ")
        if wanted != name and wanted in buyer.basket and (units := _units(str(value), least=0)) is not None:
            buyer.put(wanted, units)
    if remove:
        buyer.basket.pop(remove, None)
    if sku is None or not is_sku(sku):
        return
    units = _units(request.POST.get("quantity", "1"))
    if units is None:
        messages.warning(request, f"A quantity is a whole number from 1 to {QUANTITY_MAX:,}.")
        return
    try:
        buyer.put(sku, buyer.basket.get(sku, 0) + units)
    except BasketFull:
        messages.warning(
            request, f"The basket is full: it takes up to {BASKET_LINES} products. Order these first."
        )
    else:
        messages.success(request, "Added to your basket.")


def _units(text: str, *, least: int = 1) -> int | None:
    """A quantity as a form sends it; None where it is none."""
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(QUANTITY_MAX))):
        return None
    return int(text) if least <= int(text) <= QUANTITY_MAX else None


async def _with_offers(lines: Sequence[Line], left: dict[str, int] | None = None) -> list[_Shown]:
    """Lines with what is known of their products; without names and prices while PostgreSQL is away."""
    try:
        known = await offers.of([line.sku for line in lines])
    except StoreUnavailable:
        known = {}
    return [
        _Shown(sku=line.sku, units=line.quantity, offer=known.get(line.sku), left=(left or {}).get(line.sku))
        for line in lines
    ]


@require_POST
@_may_be_away
async def place(request: HttpRequest) -> HttpResponseBase:
    """`POST /orders`: order one product (`sku`, `quantity`), or else the basket, under the form's `key`."""
    buyer = Buyer.of(request)
    key, sku = request.POST.get("key", ""), request.POST.get("sku")
    if sku is not None:
        units = _units(request.POST.get("quantity", "1"))
        if not is_key(key) or not is_sku(sku) or units is None:
            messages.warning(request, f"A quantity is a whole number from 1 to {QUANTITY_MAX:,}.")
            return _go(request, reverse("product", args=[sku]) if is_sku(sku) else reverse("shop"))
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
    if is_key(key) and await _order_of(buyer, order_id) is not None:
        messages.info(request, "This is the order that you have placed. Nothing was ordered twice.")
        return _go(request, reverse("order", args=[order_id]))
    messages.warning(
        request, "The basket has changed since that page was loaded. Please look at it once more."
    )
    return _go(request, reverse("basket"))


@require_POST
@_may_be_away
async def again(request: HttpRequest, order_id: uuid.UUID) -> HttpResponseBase:
    """`POST /orders/<id>/again`: order what is left of a rejected order, or put it into the basket (`to=basket`).

    The new order's key derives from the old order, so that repeating this makes no third one.
    """
    buyer = Buyer.of(request)
    state = await _order_of(buyer, str(order_id))
    if state is None:
        raise Http404
    lines = what_is_left(state)
    if state.status not in (Status.REJECTED, Status.FAILED) or not lines:
        return _go(request, reverse("order", args=[order_id]))
    if request.POST.get("to") != "basket":
        return await _order(request, buyer, f"again.{order_id.hex}", lines)
    try:
        for line in lines:
            buyer.put(line.sku, line.quantity)
    except BasketFull:
        messages.warning(request, "The basket is full: not everything fits into it.")
    response = _go(request, reverse("basket"))
    buyer.keep(response)
    return response


def what_is_left(state: OrderState) -> list[Line]:
    """The lines of an order that could be had when it was rejected."""
    short = _left(state)
    lines = [Line(line.sku, short.get(line.sku, line.quantity)) for line in state.order.lines]
    return [line for line in lines if line.quantity]


def _left(state: OrderState) -> dict[str, int]:
    """By SKU of each line that was short: the units that were left."""
    return {short.sku: short.available for short in state.reason.lines} if state.reason else {}


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
    response = _go(request, reverse("order", args=[order_id]))
    buyer.keep(response)
    return response


def _full_key(buyer: Buyer, key: str) -> str:
    """The idempotency key of a buyer's order: nobody else's form can name it."""
    return f"{buyer.id}.{key}"


def _wants_json(request: HttpRequest) -> bool:
    return request.headers.get("Accept") == "application/json"


def _go(request: HttpRequest, address: str) -> HttpResponse:
    """Lead on to a page; a script is told where."""
    if _wants_json(request):
        return JsonResponse({"href": address})
    return HttpResponseRedirect(address, status=303)


def _busy(request: HttpRequest, buyer: Buyer, kind: Kind, wait_s: int | None = None) -> HttpResponse:
    """The order was not taken in now. The form is offered once more, under its key."""
    wait_s = wait_s or int(kind.headers["Retry-After"])
    if _wants_json(request):
        response: HttpResponse = JsonResponse(
            {"wait_s": wait_s, "is_paused": kind is Kind.INTAKE_PAUSED}, status=kind.status
        )
    else:
        fields = [(name, value) for name, value in request.POST.items() if name != "csrfmiddlewaretoken"]
        response = _page(
            request,
            buyer,
            "busy",
            status=kind.status,
            fields=fields,
            is_full=kind is not Kind.UNAVAILABLE,
            is_paused=kind is Kind.INTAKE_PAUSED,
            wait_s=wait_s,
        )
    response["Retry-After"] = str(wait_s)
    return response


async def _order_of(buyer: Buyer, order_id: str) -> OrderState | None:
    """The buyer's order, None where there is none (or it is somebody else's). Raises `StoreUnavailable`."""
    state = await results.find(order_id, CLIENT)
    return state if state is not None and state.order.customer == buyer.id else None


@require_safe
@_may_be_away
async def order(request: HttpRequest, order_id: uuid.UUID) -> HttpResponseBase:
    """`/orders/<id>`: what became of the buyer's order."""
    buyer = Buyer.of(request)
    state = await _order_of(buyer, str(order_id))
    if state is None:
        raise Http404
    shown = await _with_offers(state.order.lines, _left(state))
    standing = None
    if state.status is Status.QUEUED:
        standing = await waiting_line.line.standing(state.order.id, state.order.accepted_at_ms)
    remaining = await _with_offers(what_is_left(state)) if state.status is Status.REJECTED else []
    return _page(
        request,
        buyer,
        "order",
        id=state.order.id,
        number=state.order.id[:8],
        state=state.status.value,
        lines=shown,
        total=_total(shown),
        standing=standing,
        is_unknown=state.reason is not None and state.reason.code is ReasonCode.UNKNOWN_SKU,
        remaining=remaining,
        remaining_total=_total(remaining),
    )


@require_safe
@_may_be_away
async def orders(request: HttpRequest) -> HttpResponseBase:
    """`GET /orders`: the buyer's last orders."""
    buyer = Buyer.of(request)
    found = await asyncio.gather(*(_order_of(buyer, order_id) for order_id in buyer.orders))
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
    return _page(request, buyer, "orders", orders=shown)


async def order_list(request: HttpRequest) -> HttpResponseBase:
    """`/orders`: GET lists, POST places."""
    return await (place(request) if request.method == "POST" else orders(request))
