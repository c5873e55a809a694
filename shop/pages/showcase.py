"""The shop's products as the first page shows them, made once for everybody who comes within a moment.

When a drop begins, a crowd opens this one page. Reading and rendering its products costs most of a page, and they are
the same for all: what is a buyer's own (form token, numbers of taps) is put in afterwards.
"""

import asyncio
import re
import secrets
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe

from shop import offers
from shop.pages.buyer import Buyer
from shop.pages.showing import Shown

PRODUCTS_ON_A_PAGE: Final = 24
#: For how long products are shown as they were read, in seconds. Stock is looked at again by the page itself, and when it
#: is ordered.
KEPT_S: Final = 0.25
#: Stand for what is a buyer's own. No product's name can hold what nobody can guess.
_TOKEN: Final = secrets.token_hex(16)
_TAP: Final = secrets.token_hex(16)
_OWN: Final = re.compile(f"{_TOKEN}|{_TAP}")


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Products side by side. `html`: with places for what is a buyer's own. `following`: the query of the next page."""

    skus: tuple[str, ...]
    html: str
    following: str

    def for_buyer(self, buyer: Buyer, token: str) -> SafeString:
        """The products with this buyer's forms."""
        taps = iter(self.skus)

        def own(place: re.Match[str]) -> str:
            return token if place[0] == _TOKEN else str(buyer.next_tap(next(taps)).number)

        return mark_safe(_OWN.sub(own, self.html))  # noqa: S308 - rendered by a template; a token and whole numbers


async def shelf(*, search: str, after: str) -> Shelf:
    """Products on sale after a SKU, or those that a search finds. Raises `StoreUnavailable`."""
    return await (_read(search, after) if search or after else _first.shelf())


class _First:
    """The first page's products, the only ones that are kept: whatever is asked for, one shelf is all that stays."""

    def __init__(self) -> None:
        self._kept: Shelf | None = None
        self._until = 0.0
        self._reading = asyncio.Lock()

    async def shelf(self) -> Shelf:
        """One that was read a moment ago. Of those who find none one reads, and the others wait for it."""
        async with self._reading:
            if self._kept is None or time.monotonic() >= self._until:
                self._kept = await _read("", "")
                self._until = time.monotonic() + KEPT_S
            return self._kept


_first = _First()


async def _read(search: str, after: str) -> Shelf:
    found = await offers.listed(search=search, after=after, limit=PRODUCTS_ON_A_PAGE + 1)
    shown = [Shown(sku=offer.sku, offer=offer) for offer in found[:PRODUCTS_ON_A_PAGE]]
    following = ""
    if len(found) > PRODUCTS_ON_A_PAGE:
        following = "?" + urlencode({**({"q": search} if search else {}), "after": shown[-1].sku})
    context = {"products": shown, "csrf_token": _TOKEN, "tap": _TAP}
    html = render_to_string("storefront/shelf.html", context) if shown else ""
    return Shelf(skus=tuple(each.sku for each in shown), html=html, following=following)
