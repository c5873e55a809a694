"""A real order history in the layout of UCI's "Online Retail", as orders to place.

Chen, D. (2015). Online Retail. UCI Machine Learning Repository. https://doi.org/10.24432/C5BW33. A row is a
line of an invoice. Sales are the invoices with a plain number, quantities above zero throughout and a price
above zero somewhere; the others are cancellations, stock adjustments and free samples.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Final

from shop import csv_table
from shop.catalogue import Item
from shop.csv_table import Faults
from shop.domain import QUANTITY_MAX, TEXT_MAX_LENGTH, Line, is_sku, is_text

COLUMNS: Final = ("InvoiceNo", "StockCode", "Description", "Quantity", "UnitPrice", "CustomerID")

#: Spreadsheets write whole numbers with a fraction: 6.0, 17850.0.
_WHOLE = re.compile(r"(-?[0-9]{1,18})(?:\.0+)?")
_NOT_TEXT = re.compile(r"[\x00-\x1F\x7F-\x9F]+")


@dataclass(frozen=True, kw_only=True)
class Sale:
    """An invoice that sold something; its lines as published, so that a SKU may come more than once."""

    invoice: str
    customer: str | None
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class History:
    """Sales in the order of their first rows; how many invoices were passed over, and why; and the goods.

    The stock of each of the goods is the demand for it: just enough for all sales.
    """

    sales: tuple[Sale, ...]
    passed_over: dict[str, int]
    goods: tuple[Item, ...]


@dataclass
class _Invoice:
    customer: str = ""
    lines: list[Line] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    prices: list[Decimal] = field(default_factory=list)


def read(path: str, *, sku_prefix: str = "") -> History:
    """The history in a CSV file, `.gz` too; `sku_prefix` is put before each stock code. Raises `BadFile`."""
    faults = Faults(path)
    invoices: dict[str, _Invoice] = {}
    for line, cells in csv_table.read(path, COLUMNS, faults):
        number, code, name, quantity, price, buyer = (cell.strip() for cell in cells)
        # Rows of one invoice are not always neighbours.
        invoice = invoices.setdefault(number, _Invoice())
        try:
            invoice.lines.append(Line(_sku(number, sku_prefix + code), _whole("Quantity", quantity)))
            invoice.prices.append(_price(price))
            customer = _customer(buyer)
        except ValueError as error:
            faults.add(line, str(error))
            continue
        invoice.names.append(name)
        invoice.customer = invoice.customer or customer
    faults.raise_if_any()
    return _history(invoices)


def _history(invoices: dict[str, _Invoice]) -> History:
    reasons = {number: _no_sale(number, invoice) for number, invoice in invoices.items()}
    sold = {number: invoice for number, invoice in invoices.items() if not reasons[number]}
    sales = tuple(
        Sale(invoice=number, customer=invoice.customer or None, lines=tuple(invoice.lines))
        for number, invoice in sold.items()
    )
    return History(
        sales=sales,
        passed_over=dict(Counter(reason for reason in reasons.values() if reason)),
        goods=_goods(list(sold.values())),
    )


def _no_sale(number: str, invoice: _Invoice) -> str:
    """Why an invoice is no sale; empty where it is one."""
    if not _is_plain(number):
        return "cancellations" if number[:1] in {"C", "c"} else "invoices without a plain number"
    if min(line.quantity for line in invoice.lines) <= 0:
        return "stock adjustments (a quantity not above zero)"
    return "" if max(invoice.prices) > 0 else "invoices without a price"


def _goods(sold: list[_Invoice]) -> tuple[Item, ...]:
    """What was sold: each SKU with its first name and its first price above zero."""
    demand: Counter[str] = Counter()
    names: dict[str, str] = {}
    prices: dict[str, Decimal] = {}
    for invoice in sold:
        for line, name, price in zip(invoice.lines, invoice.names, invoice.prices, strict=True):
            demand[line.sku] += line.quantity
            if text := _NOT_TEXT.sub(" ", name).strip()[:TEXT_MAX_LENGTH].strip():
                names.setdefault(line.sku, text)
            if price > 0:
                prices.setdefault(line.sku, price)
    return tuple(
        Item(sku=sku, name=names.get(sku, sku), price=prices.get(sku, Decimal(0)), stock=units)
        for sku, units in demand.items()
    )


def _is_plain(number: str) -> bool:
    return number.isascii() and number.isdigit()


def _sku(number: str, sku: str) -> str:
    """The SKU; of what is no sale any code will do. Raises `ValueError`."""
    if _is_plain(number) and not is_sku(sku):
        raise ValueError(f"StockCode makes the SKU {sku!r}, which is none: 1 to 64 printable characters")
    return sku


def _whole(column: str, text: str) -> int:
    number = _WHOLE.fullmatch(text)
    if number is None:
        raise ValueError(f"{column} {text!r} is no whole number")
    if int(number[1]) > QUANTITY_MAX:
        raise ValueError(f"{column} {text!r} is more than one order line may ask for, {QUANTITY_MAX}")
    return int(number[1])


def _price(text: str) -> Decimal:
    try:
        price = Decimal(text)
    except InvalidOperation:
        price = Decimal("NaN")
    if not price.is_finite() or abs(price) >= 10**10:
        raise ValueError(f"UnitPrice {text!r} is no price")
    return price.quantize(Decimal("0.0001"))


def _customer(text: str) -> str:
    number = _WHOLE.fullmatch(text)
    customer = number[1] if number else text
    if customer and not is_text(customer):
        raise ValueError(
            f"CustomerID {customer!r} must be at most {TEXT_MAX_LENGTH} characters, none a control"
        )
    return customer
