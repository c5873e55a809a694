"""The plan of a flash sale: few units, many buyers, and what they do to each other and to the shop."""

from dataclasses import dataclass
from decimal import Decimal
from random import Random

from shop.catalogue import Item
from shop.crowd import Wish
from shop.domain import Line

#: Every so many orders, one is sent several times at the same moment, as by a nervous finger.
NERVOUS_EVERY = 20
COPIES = 3
OTHER_SKUS = 8


@dataclass(frozen=True, kw_only=True)
class Sale:
    """What is put on sale, and who wants it."""

    items: list[Item]
    wishes: list[Wish]


def two_buyers(run: str) -> Sale:
    """Ten units, and two buyers who each ask for eight. `run` makes SKUs and keys new."""
    item = Item(sku=f"TEN-{run}", name="The last ten", price=Decimal("9.90"), stock=10)
    wishes = [
        Wish(key=f"demo-{run}-{name}", lines=(Line(item.sku, 8),), customer=name, reference=f"{run}-{name}")
        for name in ("Ada", "Grace")
    ]
    return Sale(items=[item], wishes=wishes)


def flash_sale(run: str, orders: int, chance: Random) -> Sale:
    """One SKU that nearly everybody wants and a few others; about half of all orders can be served."""
    hot = Item(sku=f"HOT-{run}", name="Hot item", price=Decimal("49.00"), stock=max(1, orders // 2))
    others = [
        Item(
            sku=f"SIDE-{number}-{run}",
            name=f"Side item {number}",
            price=Decimal("5.50"),
            stock=orders // 12 + 1,
        )
        for number in range(1, OTHER_SKUS + 1)
    ]
    wishes = [
        Wish(
            key=f"demo-{run}-{number}",
            lines=_lines(hot.sku, [item.sku for item in others], chance),
            customer=f"buyer {number}",
            reference=f"{run}-{number}",
            copies=COPIES if number % NERVOUS_EVERY == 0 else 1,
        )
        for number in range(orders)
    ]
    return Sale(items=[hot, *others], wishes=wishes)


def _lines(hot: str, others: list[str], chance: Random) -> tuple[Line, ...]:
    """Most want the hot item alone, some with other things, a few only other things."""
    luck = chance.random()
    wanted = [hot] if luck < 0.85 else []
    if luck > 0.6:
        wanted += chance.sample(others, chance.randint(1, 3))
    return tuple(Line(sku, chance.randint(1, 3)) for sku in wanted)
