"""A buyer without an account: a name nobody can guess, a basket and the last orders, in one signed cookie.

Nothing of it is kept on the server, so it costs nothing, outlives every outage, and ends with the buyer's browser.
"""

import re
import secrets
from typing import Final, Self

import msgspec
from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponseBase

from shop.domain import QUANTITY_MAX, Line

COOKIE: Final = "buyer"
_SALT: Final = "shop.pages.buyer"
_LIFETIME_S: Final = 90 * 86_400
#: Browsers keep at least 4,096 bytes of a cookie with its name and attributes (RFC 6265, 6.1).
_COOKIE_BYTES: Final = 3_800
#: SKUs in a basket, as long as they fit into the cookie, too.
BASKET_LINES: Final = min(50, settings.MAX_ORDER_LINES)
_ORDERS: Final = 10
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{16,40}")


class BasketFull(Exception):
    """The basket takes no further SKU."""


def new_key() -> str:
    """A name for one intended order."""
    return secrets.token_urlsafe(12)


def is_key(text: str) -> bool:
    """Whether a form's key may be one of ours."""
    return _KEY.fullmatch(text) is not None


class Buyer(msgspec.Struct, array_like=True):
    """`id`: owner of the orders. `basket`: units by SKU. `orders`: ids of the last ones, the newest first.

    `key`: names the order that comes next, until it is known to be taken in (Note [Keys of buyers]).
    """

    id: str
    basket: dict[str, int]
    key: str
    orders: list[str]

    @classmethod
    def new(cls) -> Self:
        """Somebody who has not been here before."""
        return cls(id=f"buyer-{secrets.token_urlsafe(12)}", basket={}, key=new_key(), orders=[])

    @classmethod
    def of_cookie(cls, cookie: str) -> Self | None:
        """The buyer of a cookie's value; None where it is not ours."""
        try:
            return msgspec.convert(signing.loads(cookie, salt=_SALT), cls)
        except (signing.BadSignature, msgspec.ValidationError):
            return None

    @classmethod
    def of(cls, request: HttpRequest) -> Self:
        """Who asks."""
        return cls.of_cookie(request.COOKIES.get(COOKIE, "")) or cls.new()

    @property
    def units(self) -> int:
        """How many units are in the basket."""
        return sum(self.basket.values())

    @property
    def lines(self) -> list[Line]:
        """The basket as an order's lines."""
        return [Line(sku, units) for sku, units in self.basket.items()]

    def put(self, sku: str, units: int) -> None:
        """Have so many units of a SKU in the basket. Raises `BasketFull` and changes nothing."""
        before = dict(self.basket)
        self.basket[sku] = max(0, min(units, QUANTITY_MAX))
        if not self.basket[sku]:
            del self.basket[sku]
        if len(self.basket) > len(before) and (
            len(self.basket) > BASKET_LINES or len(self._cookie()) > _COOKIE_BYTES
        ):
            self.basket = before
            raise BasketFull

    def ordered(self, order_id: str) -> None:
        """Remember an order; older ones as far as the cookie has room."""
        self.orders = [order_id, *(known for known in self.orders if known != order_id)][:_ORDERS]
        while len(self.orders) > 1 and len(self._cookie()) > _COOKIE_BYTES:
            self.orders.pop()

    def leave(self, *, with_empty_basket: bool) -> None:
        """What is in the basket from now on becomes another order."""
        self.key = new_key()
        if with_empty_basket:
            self.basket = {}

    def _cookie(self) -> str:
        return signing.dumps(msgspec.to_builtins(self), salt=_SALT, compress=True)

    def keep(self, response: HttpResponseBase) -> None:
        """Have the browser remember the buyer."""
        response.set_cookie(
            COOKIE,
            self._cookie(),
            max_age=_LIFETIME_S,
            httponly=True,
            secure=settings.SESSION_COOKIE_SECURE,
            samesite="Lax",
        )


def basket_units(request: HttpRequest) -> dict[str, int]:
    """For every page's navigation (a context processor): how many units are in the basket."""
    buyer = Buyer.of_cookie(request.COOKIES.get(COOKIE, ""))
    return {"basket_units": buyer.units if buyer else 0}
