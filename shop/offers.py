"""Products as buyers see them: what the books say of them, and how many units are free to sell at this moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from shop import keys, stock
from shop.stores import StoreUnavailable, store_faults, web_database, web_redis


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A product on sale. `available`: units free to sell."""

    sku: str
    name: str
    price: Decimal
    available: int


async def listed(*, search: str, after: str, limit: int) -> list[Offer]:
    """Products in the order of their SKUs, after a SKU, whose SKU or name holds a text. Raises `StoreUnavailable`."""
    pattern = "%" + search.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
    return await _offers(await web_database.rows("products", after=after, pattern=pattern, limit=limit))


async def find(sku: str) -> Offer | None:
    """The product of a SKU, None where there is none. Raises `StoreUnavailable`."""
    found = await _offers(await web_database.rows("product", sku=sku))
    return found[0] if found else None


async def of(skus: Sequence[str]) -> dict[str, Offer]:
    """The products of SKUs; those that do not exist are left out. Raises `StoreUnavailable`."""
    if not skus:
        return {}
    found = await _offers(await web_database.rows("products_of", skus=list(skus)))
    return {offer.sku: offer for offer in found}


async def loaded_stock(skus: Sequence[str]) -> dict[str, int]:
    """Units free to sell, of SKUs whose counters Redis has; none while it is unavailable."""
    if not skus:
        return {}
    try:
        with store_faults():
            counters = await web_redis().mget([keys.stock(sku) for sku in skus])
    except StoreUnavailable:
        return {}
    free = zip(skus, map(stock.number, counters), strict=True)
    return {sku: max(0, units) for sku, units in free if units is not None}


async def _offers(found: list[tuple[Any, ...]]) -> list[Offer]:
    """Products with the units free that Redis shows; where it is unavailable or has no counter, those of PostgreSQL.

    PostgreSQL's are without the units of orders at work this moment.
    """
    free_now = await loaded_stock([row[0] for row in found])
    return [
        Offer(sku=sku, name=name, price=price, available=free_now.get(sku, max(0, free)))
        for sku, name, price, free in found
    ]
