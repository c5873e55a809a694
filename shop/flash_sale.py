"""The plan of a flash sale: what is put on sale, who comes when, what each wants, and how people behave."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from itertools import accumulate
from random import Random
from typing import Final

from shop.catalogue import Item
from shop.crowd import Wish
from shop.domain import Line

#: Demand by rank is Zipf's law: the k-th SKU is wanted 1 / k^EXPONENT as often as the first.
ZIPF_EXPONENT: Final = 1.2
#: How often a nervous finger sends the same request at the same moment.
COPIES: Final = 3
UNITS_MAX: Final = 3
LINES_MAX: Final = 4
#: The share of a basket that gets one more line, again and again.
ANOTHER_LINE: Final = 0.3


class Habit(StrEnum):
    """What a buyer does besides ordering and waiting for the result."""

    WAITS = "waits for the result"
    DOUBLE_TAPS = "taps three times at once"
    RETRIES = "sends it again later"
    LEAVES = "leaves without waiting"
    CANCELS = "cancels soon after"


#: Of a hundred buyers, so many have each habit.
HABITS: Final = {
    Habit.WAITS: 80,
    Habit.DOUBLE_TAPS: 7,
    Habit.RETRIES: 5,
    Habit.LEAVES: 4,
    Habit.CANCELS: 4,
}


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A buyer. `at_s`: when he orders, in seconds after the opening; `pause_s`: before he retries or cancels."""

    wish: Wish
    at_s: float
    habit: Habit
    pause_s: float


@dataclass(frozen=True, kw_only=True)
class Sale:
    """What is put on sale, the most wanted first, and who comes, the earliest first."""

    items: Sequence[Item]
    visits: Sequence[Visit]

    @property
    def wishes(self) -> list[Wish]:
        """The orders alone."""
        return [visit.wish for visit in self.visits]


def two_buyers(run: str) -> Sale:
    """Ten units, and two buyers who each ask for eight at once. `run` makes SKUs and keys new."""
    item = Item(sku=f"TEN-{run}", name="The last ten", price=Decimal("9.90"), stock=10)
    visits = [
        Visit(
            wish=Wish(
                key=f"demo-{run}-{name}",
                lines=(Line(item.sku, 8),),
                customer=name,
                reference=f"{run}-{name}",
            ),
            at_s=0.0,
            habit=Habit.WAITS,
            pause_s=0.0,
        )
        for name in ("Ada", "Grace")
    ]
    return Sale(items=[item], visits=visits)


def flash_sale(
    run: str,
    *,
    chance: Random,
    buyers: int,
    seconds: float = 20.0,
    skus: int = 40,
    hot_stock: int | None = None,
) -> Sale:
    """A rush at the opening that thins out, and one SKU that a third of all lines ask for.

    The same state of `chance` gives the same sale; `run` makes its SKUs and keys new. `hot_stock`: units of the
    hot SKU, by default one for every five buyers.
    """
    names = [f"HOT-{run}", *(f"ITEM-{rank:0{len(str(skus))}}-{run}" for rank in range(2, skus + 1))]
    odds = list(accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, skus + 1)))
    moments = sorted(_moment(chance, seconds) for _ in range(buyers))
    visits = [
        _visit(f"{run}-{number}", f"buyer {number}", at_s, _basket(chance, names, odds), chance)
        for number, at_s in enumerate(moments, start=1)
    ]
    wanted = Counter[str]()
    for visit in visits:
        for line in visit.wish.lines:
            wanted[line.sku] += line.quantity
    # Some sell out early, some late, some never.
    stocks = [max(1, round(wanted[sku] * chance.uniform(0.3, 1.3))) for sku in names]
    stocks[0] = max(1, buyers // 5) if hot_stock is None else hot_stock
    items = [
        Item(sku=sku, name=_name(rank), price=Decimal(chance.randint(500, 9900)) / 100, stock=stock)
        for rank, (sku, stock) in enumerate(zip(names, stocks, strict=True), start=1)
    ]
    return Sale(items=items, visits=visits)


def _moment(chance: Random, seconds: float) -> float:
    """Some stood at the door, most come soon after the opening, a few come any time."""
    while True:
        luck = chance.random()
        if luck < 0.10:
            at_s = chance.expovariate(25 / seconds)
        elif luck < 0.85:
            at_s = chance.expovariate(4 / seconds)
        else:
            at_s = chance.uniform(0, seconds)
        if at_s < seconds:
            return at_s


def _basket(chance: Random, names: Sequence[str], odds: Sequence[float]) -> tuple[Line, ...]:
    """Mostly one line; no SKU twice."""
    wanted: dict[str, int] = {}
    while not wanted or (len(wanted) < min(LINES_MAX, len(names)) and chance.random() < ANOTHER_LINE):
        (sku,) = chance.choices(names, cum_weights=odds)
        wanted[sku] = chance.randint(1, UNITS_MAX)
    return tuple(Line(sku, quantity) for sku, quantity in wanted.items())


def _visit(name: str, customer: str, at_s: float, lines: tuple[Line, ...], chance: Random) -> Visit:
    (habit,) = chance.choices(list(HABITS), weights=list(HABITS.values()))
    copies = COPIES if habit is Habit.DOUBLE_TAPS else 1
    wish = Wish(key=f"demo-{name}", lines=lines, customer=customer, reference=name, copies=copies)
    return Visit(wish=wish, at_s=at_s, habit=habit, pause_s=chance.uniform(0.2, 2.0))


def _name(rank: int) -> str:
    return "The hot item" if rank == 1 else f"Item number {rank} by demand"
