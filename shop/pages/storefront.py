"""The storefront: products with the stock of this moment, and a basket. What is bought goes to `shop.pages.ordering`."""

from typing import Final

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponseBase
from django.middleware.csrf import get_token
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from shop import offers
from shop.domain import QUANTITY_MAX, is_sku
from shop.offers import Offer
from shop.pages.answers import lead_to, may_be_away, page
from shop.pages.buyer import BASKET_LINES, BasketFull, Buyer
from shop.pages.showcase import shelf
from shop.pages.showing import Shown, total_of, with_offers

_SEARCH_MAX_LENGTH: Final = 64


@require_safe
@may_be_away
async def products(request: HttpRequest) -> HttpResponseBase:
    """`/`: products on sale, a page at a time, or those that a search finds."""
    search = request.GET.get("q", "").replace("\0", "").strip()[:_SEARCH_MAX_LENGTH]
    after = request.GET.get("after", "").replace("\0", "")
    found = await shelf(search=search, after=after)
    buyer = Buyer.of(request)
    return page(
        request,
        buyer,
        "products",
        products=found.for_buyer(buyer, get_token(request)),
        search=search,
        after=after,
        following=found.following,
    )


@require_safe
@may_be_away
async def product(request: HttpRequest, sku: str) -> HttpResponseBase:
    """`/products/<sku>`"""
    offer = await offers.find(sku) if is_sku(sku) else None
    if offer is None:
        raise Http404
    buyer = Buyer.of(request)
    return page(request, buyer, "product", product=_to_be_bought(offer, buyer))


def _to_be_bought(offer: Offer, buyer: Buyer) -> Shown:
    return Shown(sku=offer.sku, offer=offer, tap=buyer.next_tap(offer.sku).number)


@require_http_methods(["GET", "HEAD", "POST"])
async def basket(request: HttpRequest) -> HttpResponseBase:
    """`/basket`: what is in it. POST puts a SKU into it (`sku`, `quantity`), or changes it (`units of <sku>`, `remove`)."""
    buyer = Buyer.of(request)
    if request.method == "POST":
        _change(request, buyer)
        response = lead_to(request, reverse("basket"))
        buyer.keep(response)
        return response
    shown = await with_offers(buyer.lines)
    return page(request, buyer, "basket", lines=shown, total=total_of(shown))


def _change(request: HttpRequest, buyer: Buyer) -> None:
    sku, remove = request.POST.get("sku"), request.POST.get("remove")
    for name, value in request.POST.items():
        wanted = name.removeprefix("units of ")
        if wanted != name and wanted in buyer.basket and (units := whole(str(value), least=0)) is not None:
            buyer.put(wanted, units)
    if remove:
        buyer.basket.pop(remove, None)
    if sku is None or not is_sku(sku):
        return
    units = whole(request.POST.get("quantity", "1"))
    if units is None:
        messages.warning(request, NO_QUANTITY)
        return
    try:
        buyer.put(sku, buyer.basket.get(sku, 0) + units)
    except BasketFull:
        messages.warning(
            request, f"The basket is full: it takes up to {BASKET_LINES} products. Order these first."
        )
    else:
        messages.success(request, "Added to your basket.")


NO_QUANTITY: Final = f"A quantity is a whole number from 1 to {QUANTITY_MAX:,}."


def whole(text: str, *, least: int = 1) -> int | None:
    """A quantity as a form sends it; None where it is none."""
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(QUANTITY_MAX))):
        return None
    return int(text) if least <= int(text) <= QUANTITY_MAX else None
