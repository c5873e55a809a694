"""Stock in Redis: how its counters follow PostgreSQL.

`estoque:<sku>` shows the units of a SKU that are free to sell. Orders take units off it provisionally, and everything that
PostgreSQL decides is published to it whole, with the version that it has there: publishing late, twice or out of order ends
the same. A counter that is missing, wrong or edited is written over by the next order, movement or cancellation of its SKU.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from shop import books, keys, scripts
from shop.books import Stock
from shop.stores import TextRedis, store_faults

_NONE: Mapping[str, str] = MappingProxyType({})

#: SKUs that one call publishes.
PUBLISH_BATCH = 1_000

#: As scripts take a counter for one.
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,14}")
_VERSION = re.compile(r"([0-9]{1,15}):([0-9]{1,15})")

#: The keys of `settle.lua`.
SETTLE_KEYS = (keys.OPEN_ORDERS, keys.CANCELLATIONS, keys.EPOCH, keys.SETTLED_CHANNEL, keys.PARKED_INDEX)


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Which history of PostgreSQL Redis shows, and which server it follows, as of this moment ('' = none yet)."""

    epoch: str
    server: str


def followed(client: TextRedis) -> Followed:
    """To be read before PostgreSQL is: nothing is published of one that went back since. Raises `StoreUnavailable`."""
    with store_faults():
        epoch, server = client.mget(keys.EPOCH, keys.FOLLOWED)
    return Followed(epoch=epoch or "0", server=server or "")


def publish(client: TextRedis, stock: Mapping[str, Stock | None], epoch: str) -> bool:
    """Set the counters of SKUs to what PostgreSQL has, where Redis knows nothing newer; False where the epoch is over.

    `epoch`: of before PostgreSQL was read. Raises `StoreUnavailable`.
    """
    found = list(stock.items())
    for at in range(0, len(found), PUBLISH_BATCH):
        batch = dict(found[at : at + PUBLISH_BATCH])
        args = [0, 0, epoch, *as_arguments(batch)]
        with store_faults():
            if scripts.run(client, "settle", list(SETTLE_KEYS), args) == ["superseded"]:
                return False
    return True


def as_arguments(stock: Mapping[str, Stock | None], locks: Mapping[str, str] = _NONE) -> list[Any]:
    """How many SKUs `settle.lua` is to publish, and what of each. `locks`: by SKU the order whose lock is to be released."""
    args: list[Any] = [len(stock.keys() | locks.keys())]
    for sku, found in stock.items():
        args += (sku, found.version, found.free) if found else (sku, "", "")
        args.append(locks.get(sku, ""))
    for sku in locks.keys() - stock.keys():
        args += (sku, "-", "-", locks[sku])
    return args


def refresh(client: TextRedis, skus: Sequence[str]) -> dict[str, Stock | None]:
    """Publish what PostgreSQL has of SKUs now, and return it; None of those that do not exist. Raises `StoreUnavailable`."""
    while True:
        epoch = followed(client).epoch
        stock = books.stock_of(skus)
        if publish(client, stock, epoch):
            return stock


def begin_epoch(client: TextRedis) -> None:
    """Make every version in Redis an old one: PostgreSQL went back, or somebody edited it. Raises `StoreUnavailable`."""
    with store_faults():
        client.incr(keys.EPOCH)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What Redis holds of a SKU.

    `free`: units to sell, None where the counter is missing or no number. `version`: of PostgreSQL's counters when they were
    published last, None where it is of another epoch. `holder`: the order whose lock is on it.
    """

    free: int | None
    is_missing: bool
    version: int | None
    holder: str | None


def seen(client: TextRedis, skus: Sequence[str]) -> dict[str, Seen]:
    """What Redis holds of SKUs. Raises `StoreUnavailable`."""
    if not skus:
        return {}
    with store_faults():
        pipe = client.pipeline(transaction=False)
        pipe.mget(keys.EPOCH)
        for sku in skus:
            pipe.mget(keys.stock(sku), keys.version(sku), keys.lock(sku))
            pipe.exists(keys.stock(sku))
        ((epoch,), *found) = pipe.execute()
    return {
        sku: Seen(
            free=number(free), is_missing=not exists, version=_version(version, epoch or "0"), holder=holder
        )
        for sku, (free, version, holder), exists in zip(skus, found[::2], found[1::2], strict=True)
    }


def number(text: str | None) -> int | None:
    """A counter; None of what is missing or no number as `reserve.lua` takes it for one."""
    return int(text) if text and _NUMBER.fullmatch(text) else None


def _version(text: str | None, epoch: str) -> int | None:
    found = _VERSION.fullmatch(text or "")
    return int(found[2]) if found and found[1] == epoch else None
