"""How products, lines of an order, stock and money are shown to buyers."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from django.conf import settings

from shop import offers
from shop.domain import Line
from shop.offers import Offer
from shop.stores import StoreUnavailable

#: From so many units on a product is shown as running out.
_FEW: Final = 10


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
class Shown:
    """A product or a line as templates show it. Without `offer` the product is unknown or can't be told now.

    `left`: of a line that was short, the units that there were. `tap`: number of the product's next order at one tap.
    """

    sku: str
    units: int = 1
    offer: Offer | None = None
    left: int | None = None
    tap: int = 0

    @property
    def name(self) -> str:
        """The product's name, or else its SKU."""
        return self.offer.name if self.offer else self.sku

    @property
    def price(self) -> str:
        """Of one unit, '' where it is not known."""
        return money(self.offer.price) if self.offer else ""

    @property
    def sum(self) -> str:
        """Of all its units, '' where it is not known."""
        return money(self.offer.price * self.units) if self.offer else ""

    @property
    def stock(self) -> tuple[str, str] | None:
        """Words for the units that are free, and the kind of badge."""
        return stock_words(self.offer.available) if self.offer else None

    @property
    def count(self) -> str:
        """Its units."""
        return f"{self.units:,}"

    @property
    def is_short(self) -> bool:
        """Whether there were too few of it."""
        return self.left is not None


def total_of(shown: Sequence[Shown]) -> str:
    """The sum of all lines, '' where a price is not known."""
    if not shown or not all(each.offer for each in shown):
        return ""
    return money(sum((each.offer.price * each.units for each in shown if each.offer), Decimal(0)))


async def with_offers(lines: Sequence[Line], left: dict[str, int] | None = None) -> list[Shown]:
    """Lines with what is known of their products; without names and prices while PostgreSQL is away."""
    try:
        known = await offers.of([line.sku for line in lines])
    except StoreUnavailable:
        known = {}
    return [
        Shown(sku=line.sku, units=line.quantity, offer=known.get(line.sku), left=(left or {}).get(line.sku))
        for line in lines
    ]
