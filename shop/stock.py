"""Stock in Redis and how it follows the books: loading counters, levels, stock movements, locks.

`estoque:<sku>` = on sale - confirmed (PostgreSQL) - open reservations. Orders change it by reserving. Everything else
(deliveries, corrections, cancellations) changes PostgreSQL first and reaches Redis as a *level*: the units ever put on
sale or returned, with a version that grows. A level is applied by the difference to the one already contained, so that
applying it late, twice or out of order ends the same.
"""

import json
import random
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from shop import keys, scripts
from shop.stores import StoreUnavailable, TextRedis, rows, store_faults
from workers.fail_points import reach

#: How often a load begins again when reservations ended under its hands. Each time is some milliseconds.
LOAD_TRIES = 50
#: Those who load a SKU at once wait for up to as many loads.
MOST_LOADERS = 8
#: SKUs loaded in one go.
LOAD_BATCH = 500

#: As scripts take a counter for one.
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,14}")


def load(client: TextRedis, skus: Sequence[str]) -> set[str]:
    """Load the missing counters of SKUs from PostgreSQL, exactly, while orders flow. Returns SKUs that do not exist."""
    unknown: set[str] = set()
    for at in range(0, len(skus), LOAD_BATCH):
        missing = list(skus[at : at + LOAD_BATCH])
        for tries in range(1, LOAD_TRIES + 1):
            began = time.monotonic()
            missing, absent = _load_once(client, missing)
            unknown |= absent
            if not missing:
                break
            # Of loaders that begin together each makes the others' work void: go on one after the other. With a slow
            # PostgreSQL that takes waits as long as loads, and more where they are many.
            took_s = time.monotonic() - began
            time.sleep(random.uniform(0.001, 0.02) + random.uniform(0, took_s) * min(tries, MOST_LOADERS))
        else:
            raise StoreUnavailable(f"stock of {missing[:3]} changed too fast to be loaded")
    return unknown


def _load_once(client: TextRedis, skus: Sequence[str]) -> tuple[list[str], set[str]]:
    """One try: SKUs that must be tried again, and SKUs that do not exist.

    Order of steps: (1) mark the SKUs and list the reservations that hold units of them; (2) one snapshot of the books:
    levels, and which of those reservations they count already; (3) write, if nothing of it has changed. A reservation that
    ends between 1 and 3, counted or given back, makes step 3 refuse: which of the two it was, nobody can tell any more.
    """
    nonce = secrets.token_hex(8)
    with store_faults():
        missing, holding = scripts.run(client, "begin_load", [keys.RESERVATIONS], [nonce, *skus])
    if not missing:
        return [], set()
    held = [tuple(holding[at : at + 4]) for at in range(0, len(holding), 4)]
    with store_faults():
        snapshot = rows("load", skus=missing, ids=sorted({order_id for order_id, *_ in held}))
    levels = {row[1]: row[2:5] for row in snapshot if row[0] == "level"}
    counted = {(row[1], row[5]) for row in snapshot if row[0] == "counted"}
    uncounted: dict[str, list[tuple[str, ...]]] = {}
    for reservation in held:
        if (reservation[0], reservation[1]) not in counted:
            uncounted.setdefault(reservation[2], []).append(reservation)
    reach("stock.before_finish_load")
    with store_faults():
        pipe = client.pipeline(transaction=False)
        for sku, (version, units, free) in levels.items():
            taken = uncounted.get(sku, [])
            names = [keys.stock(sku), keys.level(sku), keys.RESERVATIONS]
            args = [nonce, free - sum(int(r[3]) for r in taken), version, units]
            scripts.run(pipe, "finish_load", names, args + [part for r in taken for part in r[:2]])
        for sku in set(missing) - set(levels):
            pipe.delete(keys.level(sku))
        replies = pipe.execute()
    again = [sku for sku, reply in zip(levels, replies, strict=False) if reply == "changed"]
    return again, set(missing) - set(levels)


def unload(client: TextRedis, skus: Iterable[str]) -> None:
    """Forget counters that can't be trusted; they are loaded before their next use."""
    with store_faults():
        scripts.run(client, "unload", [], list(skus))


def sync_levels(client: TextRedis, skus: Sequence[str], *, reservation: str = "") -> None:
    """Bring Redis to the books' present levels. `reservation`: a movement's, whose units the new level contains."""
    with store_faults():
        for sku, version, units, _ in rows("levels", skus=list(skus)):
            names = [keys.stock(sku), keys.level(sku), keys.RESERVATIONS]
            scripts.run(client, "sync_level", names, [version, units, reservation])


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What Redis holds of a SKU, in units. `free`: to sell, None where it is not loaded. `reserved`: on hold for orders and
    movements. `version`: of the stock level it contains, None where none is. `holder`: the order whose lock is on it.
    """

    free: int | None
    reserved: int
    version: int | None
    holder: str | None


def seen(client: TextRedis, skus: Sequence[str]) -> dict[str, Seen]:
    """What Redis holds of SKUs, for people to look at; nothing is loaded for it. Raises `StoreUnavailable`."""
    with store_faults():
        pipe = client.pipeline(transaction=False)
        pipe.hvals(keys.RESERVATIONS)
        for sku in skus:
            pipe.get(keys.stock(sku))
            pipe.hget(keys.level(sku), "version")
            pipe.get(keys.lock(sku))
        reservations, *replies = pipe.execute()
    reserved = dict.fromkeys(skus, 0)
    for packed in reservations:
        _, _, *lines = json.loads(packed)
        for sku, units in zip(lines[::2], lines[1::2], strict=True):
            if sku in reserved:
                reserved[sku] += int(units)
    return {
        sku: Seen(free=_number(free), reserved=reserved[sku], version=_number(version), holder=holder)
        for sku, free, version, holder in zip(skus, replies[::3], replies[1::3], replies[2::3], strict=True)
    }


def _number(text: str | None) -> int | None:
    """A counter; None also of what somebody has written there that is no number."""
    return int(text) if text and _NUMBER.fullmatch(text) else None


class Locked(Exception):
    """Somebody else kept a lock for as long as we were ready to wait."""


@contextmanager
def locks(client: TextRedis, holder: str, skus: Sequence[str], *, patience_s: float) -> Iterator[None]:
    """Hold the locks of SKUs, all taken at once or none; waits with jitter, then raises `Locked`.

    The lock keeps a SKU's change to one process at a time. Nothing relies on it: whoever freezes here for longer than the
    lock lives meets versions, tokens and PostgreSQL's constraint.
    """
    names = [keys.lock(sku) for sku in skus]
    deadline = time.monotonic() + patience_s
    while True:
        with store_faults():
            if scripts.run(client, "lock", names, [holder, keys.LOCK_TTL_MS]) == "taken":
                break
        if time.monotonic() > deadline:
            raise Locked(f"{skus[0]} is locked")
        time.sleep(random.uniform(0.002, 0.02))
    try:
        yield
    finally:
        with store_faults():
            scripts.run(client, "unlock", names, [holder])
