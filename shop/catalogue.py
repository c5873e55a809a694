"""The catalogue: products as a file lists them, and putting them on sale."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from django.db import connection, transaction

from shop import csv_table, stock
from shop.csv_table import Faults
from shop.domain import SKU_MAX_LENGTH, TEXT_MAX_LENGTH, is_sku, is_text
from shop.stores import TextRedis, rows, store_faults
from workers.fail_points import reach

COLUMNS: Final = ("sku", "name", "price", "stock")
STOCK_MAX: Final = 1_000_000_000
#: Products written by one statement, and published in Redis by one call: a fraction of a second each.
BATCH: Final = 2_000

_PRICE = re.compile(r"[0-9]{1,10}(\.[0-9]{1,4})?")
_STOCK = re.compile(r"[0-9]{1,10}")

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A product as it is listed. `stock`: units it opens with, should it be new."""

    sku: str
    name: str
    price: Decimal
    stock: int


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What became of a list: products `added`, with `units` in all; those `known`, of them `renamed`."""

    added: int
    units: int
    known: int
    renamed: int


def read(path: str) -> list[Item]:
    """The products in a CSV file ("-": standard input). Raises `BadFile` that names each bad row."""
    faults = Faults(path)
    items: dict[str, Item] = {}
    seen: dict[str, int] = {}
    for line, (sku, *others) in csv_table.read(path, COLUMNS, faults):
        name, price, units = (text.strip() for text in others)
        if fault := _fault(sku, name, price, units):
            faults.add(line, fault)
        elif (first := seen.setdefault(sku, line)) != line:
            faults.add(line, f"sku {sku!r} stands in line {first} already")
        else:
            items[sku] = Item(sku=sku, name=name, price=Decimal(price), stock=int(units))
    faults.raise_if_any()
    return list(items.values())


def _fault(sku: str, name: str, price: str, units: str) -> str | None:
    if not is_sku(sku):
        return f"sku {sku!r} must be 1 to {SKU_MAX_LENGTH} printable characters without outer blanks"
    if not is_text(name):
        return f"name {name!r} must be 1 to {TEXT_MAX_LENGTH} characters without control characters"
    if not _PRICE.fullmatch(price):
        return f"price {price!r} must be a number like 2.50, with at most 4 decimal places"
    if not _STOCK.fullmatch(units) or int(units) > STOCK_MAX:
        return f"stock {units!r} must be a whole number from 0 to {STOCK_MAX}"
    return None


def store(items: Sequence[Item], *, reason: str = "", progress: Progress = lambda done: None) -> Stored:
    """Write products: new ones with opening stock, known ones with a new name and price.

    Each `BATCH` is a transaction: a row that was written is locked until its commit, and orders of its SKU wait. `reason`
    goes into the audit of the opening stock. Raises `StoreUnavailable`; what was written stays, and a repeated call does the
    rest.
    """
    # In the order in which others lock products, so that no two wait for each other in a circle.
    listed = sorted(items, key=lambda item: item.sku)
    added: set[str] = set()
    renamed = 0
    for at in range(0, len(listed), BATCH):
        batch = listed[at : at + BATCH]
        with store_faults(), transaction.atomic():
            fresh = {
                sku for (sku,) in rows("add_products", **_columns(batch), reason=reason, **_stocks(batch))
            }
            renamed += len(rows("rename_products", **_columns([i for i in batch if i.sku not in fresh])))
            reach("catalogue.before_load")
        added |= fresh
        progress(at + len(batch))
    reach("catalogue.after_books")
    if added:
        # Until PostgreSQL knows how many products there are, it would rather read all of them than look some up.
        with store_faults(), connection.cursor() as cursor:
            cursor.execute("ANALYZE shop_product")
    units = sum(item.stock for item in items if item.sku in added)
    return Stored(added=len(added), units=units, known=len(items) - len(added), renamed=renamed)


def _columns(batch: Sequence[Item]) -> dict[str, list[object]]:
    return {
        "skus": [item.sku for item in batch],
        "names": [item.name for item in batch],
        "prices": [item.price for item in batch],
    }


def _stocks(batch: Sequence[Item]) -> dict[str, list[int]]:
    return {"stocks": [item.stock for item in batch]}


def publish_stock(client: TextRedis, items: Sequence[Item], progress: Progress = lambda done: None) -> None:
    """Show the stock of products in Redis.

    Raises `StoreUnavailable`, which does no harm: a counter that is missing is written when its SKU is first ordered.
    """
    for at in range(0, len(items), BATCH):
        batch = items[at : at + BATCH]
        stock.refresh(client, [item.sku for item in batch])
        progress(at + len(batch))
