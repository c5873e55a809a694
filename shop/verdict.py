"""The verdict on a crowd of orders: what buyers were told, held against PostgreSQL and Redis."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import redis

from shop import evidence
from shop.crowd import Bought, Purchase
from shop.domain import Line, ReasonCode, Status, summed
from shop.evidence import Books, Counters, OrderRow
from shop.web.schemas import OrderAnswer

#: Examples told of each fault.
EXAMPLES: Final = 5


@dataclass(kw_only=True)
class Check:
    """One thing that must hold. `wrong`: by how many orders, units, SKUs or keys it does not."""

    name: str
    meaning: str
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str, wrong: int = 1) -> None:
        """Note something wrong."""
        self.wrong += wrong
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.name:<12}{self.wrong:>10,}   {self.meaning}", *(f"  {text}" for text in self.examples)]
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of the orders, and whether everything that must hold does.

    `totals`: per state, and "asked": (orders, lines, units). `on_sale`, `sold`: units of the SKUs they name.
    """

    totals: Mapping[str, tuple[int, int, int]]
    skus: int
    on_sale: int
    sold: int
    checks: Sequence[Check]

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not any(check.wrong for check in self.checks)

    def __str__(self) -> str:
        rows = [
            f"{name:<12}{orders:>10,}{lines:>12,}{units:>14,}"
            for name, (orders, lines, units) in self.totals.items()
        ]
        left = self.on_sale - self.sold
        stock = f"{self.skus:,} SKUs: {self.on_sale:,} units put on sale, {self.sold:,} sold, {left:,} left"
        wrong = [check.name for check in self.checks if check.wrong]
        end = (
            f"NOT as it should be: {', '.join(wrong)}"
            if wrong
            else "every order and every unit accounted for"
        )
        head = f"{'':<12}{'orders':>10}{'lines':>12}{'units':>14}"
        return "\n".join([head, *rows, "", stock, "", *map(str, self.checks), "", f"verdict: {end}"])


def judge(bought: Bought, client: "redis.Redis") -> Verdict:
    """Judge what a crowd bought, once all of it has ended. Raises `StoreUnavailable`."""
    purchases = bought.purchases
    skus = sorted({line.sku for purchase in purchases for line in purchase.wish.lines})
    books = evidence.read_books(purchases, skus)
    counters = evidence.read_counters(client, purchases, books, skus)
    checks = [
        _lost(purchases, books, counters),
        _doubled(purchases, books, counters),
        _changed(purchases, books),
        _oversold(books),
        _undersold(purchases, books),
        _miscounted(books, counters, bought.available),
        _left_behind(counters),
    ]
    return Verdict(
        totals=_totals(purchases),
        skus=len(skus),
        on_sale=sum(sku.put_on_sale for sku in books.skus.values()),
        sold=sum(sku.ordered for sku in books.skus.values()),
        checks=checks,
    )


def _totals(purchases: Sequence[Purchase]) -> dict[str, tuple[int, int, int]]:
    orders: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    units: Counter[str] = Counter()
    for purchase in purchases:
        asked = purchase.wish.lines
        for name in ("asked", purchase.answers[0].status.value):
            orders[name] += 1
            lines[name] += len(asked)
            units[name] += sum(line.quantity for line in asked)
    names = ["asked", *(status.value for status in Status if status is not Status.QUEUED or orders[status])]
    return {name: (orders[name], lines[name], units[name]) for name in names}


def _lost(purchases: Sequence[Purchase], books: Books, counters: Counters) -> Check:
    check = Check(name="lost", meaning="orders that do not have one final state, the same everywhere")
    for purchase in purchases:
        order_id = purchase.answers[0].id
        states = {answer.status for answer in purchase.answers}
        told = "/".join(sorted(states))
        row = books.orders.get(order_id)
        states.add(row.status if row else Status.QUEUED)
        # Redis forgets an order some time after its end.
        states |= {counters.states[order_id]} if order_id in counters.states else set()
        if row and row.status is Status.CANCELLED:
            states.discard(Status.CONFIRMED)  # it was, when it was told
        if len(states) > 1 or Status.QUEUED in states or order_id in counters.open:
            in_books = row.status if row else "missing"
            in_redis = counters.states.get(order_id, "gone") + (", open" if order_id in counters.open else "")
            check.add(f"{purchase.wish.key}: told {told}, in the books {in_books}, in Redis {in_redis}")
    return check


def _doubled(purchases: Sequence[Purchase], books: Books, counters: Counters) -> Check:
    check = Check(name="doubled", meaning="orders beyond the first of one key, or of one wish")
    strangers: dict[object, set[str]] = {}
    for row in books.strangers:
        strangers.setdefault((row.client, row.reference, row.lines), set()).add(row.id)
    for purchase in purchases:
        ids = {answer.id for answer in purchase.answers}
        if purchase.wish.key in counters.ids:
            ids.add(counters.ids[purchase.wish.key])
        if found := books.orders.get(purchase.answers[0].id):
            ids |= strangers.get((found.client, found.reference, found.lines), set())
        if len(ids) > 1:
            check.add(f"{purchase.wish.key}: {', '.join(sorted(ids))}", len(ids) - 1)
    return check


def _changed(purchases: Sequence[Purchase], books: Books) -> Check:
    check = Check(
        name="changed", meaning="orders that differ between wish, answer and books, or refused untruly"
    )
    for purchase in purchases:
        for answer in purchase.answers:
            faults = [*_against_wish(purchase, answer), *_against_row(answer, books.orders.get(answer.id))]
            if faults:
                check.add(f"{purchase.wish.key}: {', '.join(faults)}")
                break
    return check


def _against_wish(purchase: Purchase, answer: OrderAnswer) -> Iterator[str]:
    wish = purchase.wish
    if _lines(answer) != summed(list(wish.lines)):
        yield "lines differ from those asked for"
    if (answer.customer, answer.reference) != (wish.customer, wish.reference):
        yield "customer or reference differ from those asked for"
    refused = answer.status in {Status.REJECTED, Status.FAILED}
    if refused != bool(answer.reason):
        yield f"{answer.status} with{'out' if refused else ''} a reason"
    elif answer.reason and answer.reason.code is ReasonCode.INSUFFICIENT_STOCK:
        asked = {line.sku: line.quantity for line in _lines(answer)}
        short = answer.reason.lines
        if not short or any(asked.get(s.sku) != s.requested or s.available >= s.requested for s in short):
            yield "the reason names lines that were not short"


def _against_row(answer: OrderAnswer, row: OrderRow | None) -> Iterator[str]:
    if row is None:
        return
    if (answer.customer, answer.reference, _lines(answer)) != (row.customer, row.reference, row.lines):
        yield "content differs from the books"
    if row.status is not Status.CANCELLED and (answer.reason or None) != row.reason:
        yield "reason differs from the books"


def _oversold(books: Books) -> Check:
    check = Check(name="oversold", meaning="units confirmed beyond those put on sale")
    for name, sku in books.skus.items():
        if sku.left < 0:
            check.add(f"{name}: {sku.ordered:,} confirmed of {sku.put_on_sale:,}", -sku.left)
    return check


def _undersold(purchases: Sequence[Purchase], books: Books) -> Check:
    """Stock only falls during a sale: an order that fits into what is left fitted when it was refused, too.

    Refused orders take from what is left in turn, so that each unit is missed once. An order is passed over
    if stock of one of its SKUs came after its refusal, by delivery or cancellation.
    """
    check = Check(
        name="undersold", meaning="units of refused orders that would have fitted into what is left"
    )
    free = {name: sku.left for name, sku in books.skus.items()}
    for purchase in purchases:
        row = books.orders.get(purchase.answers[0].id)
        if row is None or row.status not in {Status.REJECTED, Status.FAILED}:
            continue
        fits = all(free.get(line.sku, 0) >= line.quantity for line in row.lines)
        if fits and books.has_no_newer_stock(row):
            for line in row.lines:
                free[line.sku] -= line.quantity
            units = sum(line.quantity for line in row.lines)
            check.add(f"{purchase.wish.key}: {row.status}, would fit", units)
    return check


def _miscounted(books: Books, counters: Counters, available: Mapping[str, int]) -> Check:
    check = Check(name="miscounted", meaning="SKUs whose counters differ: order lines, ledger, Redis, HTTP")
    for name, sku in books.skus.items():
        free = sku.left
        faults = {
            f"on sale {sku.on_sale}, by movements {sku.put_on_sale}": sku.on_sale != sku.put_on_sale,
            f"confirmed {sku.confirmed}, by orders {sku.ordered}": sku.confirmed != sku.ordered,
            f"sold by movements {sku.sold}, by orders {sku.ordered}": sku.sold != sku.ordered,
            # A counter that is missing is not wrong: it is written when its SKU is next ordered.
            f"free {free}, in Redis {counters.free[name]}": name not in counters.busy
            and counters.free[name] not in {None, str(free)},
            f"free {free}, by HTTP {available.get(name)}": name not in counters.busy
            and available.get(name) != max(0, free),
        }
        if any(faults.values()):
            check.add(f"{name}: {'; '.join(fault for fault, is_so in faults.items() if is_so)}")
    return check


def _left_behind(counters: Counters) -> Check:
    check = Check(name="left behind", meaning="locks that ended orders still hold")
    for left in counters.left:
        check.add(left)
    return check


def _lines(answer: OrderAnswer) -> tuple[Line, ...]:
    return tuple(Line(item.sku, item.quantity) for item in answer.items)
