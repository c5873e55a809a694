"""What open pages ask for again and again: stock, and how an order is doing. Answered the API's light way."""

import uuid
from typing import Final

import msgspec

from shop import offers, results
from shop.domain import STOREFRONT, Status
from shop.pages.buyer import COOKIE, Buyer
from shop.pages.orders import is_wish_recorded, order_of, shown_as
from shop.pages.showcase import PRODUCTS_ON_A_PAGE
from shop.pages.showing import stock_words
from shop.waiting_line import line
from shop.web.http import Answer, Request
from shop.web.problems import Kind, Problem, require_method

#: How long an answer is held while an order is queued: after that the place in line is news, too.
HELD_S: Final = 2.0
#: SKUs on the largest page that watches them: a full basket.
_SKUS: Final = max(50, PRODUCTS_ON_A_PAGE)

_json = msgspec.json.Encoder()


async def stock(request: Request) -> Answer:
    """`/watch/stock?sku=...`: by SKU, units free to sell, words for them and their kind; without those not known now."""
    require_method(request.method, "GET", "HEAD")
    found = await offers.loaded_stock(request.query.getlist("sku")[:_SKUS])
    return Answer(_json.encode({sku: (units, *stock_words(units)) for sku, units in found.items()}))


async def order(request: Request, order_id: uuid.UUID) -> Answer:
    """`/watch/orders/<id>`: what the buyer's order is shown as; held for a little while it is queued."""
    require_method(request.method, "GET", "HEAD")
    buyer = Buyer.of_cookie(request.cookie(COOKIE))
    is_wished = await is_wish_recorded(str(order_id))
    state = await order_of(buyer, str(order_id)) if buyer else None
    if state is None:
        raise Problem(kind=Kind.NOT_FOUND)
    if state.status is Status.QUEUED:
        hold = results.Hold()
        request.when_left(hold.release)
        state = await results.wait(str(order_id), STOREFRONT, HELD_S, hold) or state
    shown, words = shown_as(state, is_wish_recorded=is_wished), ""
    if shown == Status.QUEUED:
        standing = await line.standing(str(order_id), state.order.accepted_at_ms)
        words = standing.words if standing else ""
    return Answer(_json.encode({"status": shown, "words": words}))
