"""What buyers order: spread over many SKUs, all the same one, or of any size."""

from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Final

from tests.benchmarks.rounds import Order

#: Units of each SKU: more than a run can sell.
PLENTY: Final = 1_000_000_000
SPREAD_SKUS: Final = 1_000
SPREAD_LINES: Final = 3

#: Makes so many orders.
Traffic = Callable[[int], list[Order]]


def sku(number: int) -> str:
    """The SKU with this number."""
    return f"sku-{number:06d}"


HOT_SKU: Final = "hot"


def on_sale(skus: int = SPREAD_SKUS) -> Mapping[str, int]:
    """The catalogue that all traffic is made for: so many SKUs, and the one that everybody wants."""
    return {sku(number): PLENTY for number in range(skus)} | {HOT_SKU: PLENTY}


def spread(*, skus: int = SPREAD_SKUS, lines: int = SPREAD_LINES) -> Traffic:
    """Orders of one unit each of different SKUs, every SKU as likely as any other; the same ones in each run."""
    return partial(_spread, Random(1), skus, lines)


def _spread(random: Random, skus: int, lines: int, orders: int) -> list[Order]:
    numbers = range(skus)
    return [[(sku(number), 1) for number in random.sample(numbers, lines)] for _ in range(orders)]


def hot(orders: int) -> list[Order]:
    """Orders of one unit of the SKU that everybody wants."""
    return [[(HOT_SKU, 1)]] * orders
