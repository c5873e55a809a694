"""A buyer without an account: a name nobody can guess, a basket and the last orders, in one signed cookie.

Nothing of it is kept on the server, so it costs nothing, outlives every outage, and ends with the buyer's browser.
"""

import hashlib
import re
import secrets
from typing import Final, NamedTuple, Self

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
#: Products bought at one tap whose numbers are remembered.
_TAPS: Final = 50
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{16,40}")


class BasketFull(Exception):
    """The basket takes no further SKU."""


def new_key() -> str:
    """A name for one intended order of a basket."""
    return secrets.token_urlsafe(12)


def is_key(text: str) -> bool:
    """Whether a form's key may be one of ours."""
    return _KEY.fullmatch(text) is not None


class Tap(NamedTuple):
    """Ordering one product at one tap; `number` counts such orders of it (Note [Keys of buyers])."""

    sku: str
    number: int

    @property
    def product(self) -> str:
        """The product, however long its SKU is."""
        return hashlib.blake2b(self.sku.encode(), digest_size=8).hexdigest()

    @property
    def key(self) -> str:
        """The name of this one intended order."""
        return f"tap.{self.product}.{self.number}"


class Buyer(msgspec.Struct, array_like=True):
    """`id`: owner of the orders. `basket`: units by SKU. `orders`: ids of the last ones, the newest first.

    `key`: names the order of the basket that comes next, until it is known to be taken in. `taps`: by product the number of
    the next tap, the product that was bought last at the end; `first_tap`: the number for all others
    (Note [Keys of buyers]).
    """

    id: str
    basket: dict[str, int]
    key: str
    orders: list[str]
    taps: dict[str, int] = {}
    first_tap: int = 0

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
        """Remember an order; older ones, and numbers of taps, as far as the cookie has room."""
        self.orders = [order_id, *(known for known in self.orders if known != order_id)][:_ORDERS]
        while len(self._cookie()) > _COOKIE_BYTES:
            if len(self.orders) > 1:
                self.orders.pop()
            elif self.taps:
                self._forget_a_tap()
            else:
                break

    def basket_ordered(self, *, as_it_is: bool) -> None:
        """The basket's order was answered: what is in it from now on, nothing if it went `as_it_is`, becomes another one."""
        self.key = new_key()
        if as_it_is:
            self.basket = {}

    def next_tap(self, sku: str) -> Tap:
        """The order that one tap places now: the first one of the product that has not been answered yet."""
        tap = Tap(sku, self.first_tap)
        return tap._replace(number=self.taps.get(tap.product, tap.number))

    def is_past(self, tap: Tap) -> bool:
        """Whether a tap is of a page from before a later order, so that it can only mean one that exists."""
        return tap.number < self.next_tap(tap.sku).number

    def tapped(self, tap: Tap) -> None:
        """The order of this tap was answered: the next one of the product is another one."""
        number = max(self.next_tap(tap.sku).number, tap.number + 1)
        self.taps.pop(tap.product, None)
        self.taps[tap.product] = number
        if len(self.taps) > _TAPS:
            self._forget_a_tap()

    def _forget_a_tap(self) -> None:
        """Forget the product that was bought longest ago; its numbers that were used are not used again."""
        self.first_tap = max(self.first_tap, self.taps.pop(next(iter(self.taps))))

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
