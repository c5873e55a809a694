"""What happens, counted: at once in this process, and once a second in Redis, for all processes together.

To count is an addition in memory. A thread of its own brings the sums to Redis, where they stand as running totals, by the
second, and as rankings of SKUs by the minute, all by Redis's clock. A figure may get lost, with its process or while Redis
is away; no order waits for one or fails because of one.
"""

import os
import re
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Final

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shop import keys
from shop.stores import TextRedis, is_of_a_broken_key, known, store_faults

log = structlog.get_logger()

# --- what is counted; fields of the hashes in Redis ------------------------------------------------
INTAKE: Final = "intake:"  # and what became of an order that was posted: accepted, rate_limited, ...
ENDED: Final = "ended:"  # and a final state, ':', and the code of its reason
HTTP: Final = "http:"  # and a method, ':', and the status of the answer
LOCK_WAITS: Final = "lock_waits"
UNITS_SOLD: Final = "units_sold"
#: Not counted but looked at: orders open at the end of a second. Only those in which something happened have it.
OPEN: Final = "open"

# --- rankings of SKUs -----------------------------------------------------------------------------
ASKED: Final = "asked"  # units in orders that ended
SOLD: Final = "sold"  # units in confirmed orders
BUSY: Final = "busy"  # how often an order met the SKU's lock
RANKINGS: Final = (ASKED, SOLD, BUSY)
#: Of each ranking a process tells the first so many, so that a large catalogue costs no more than a small one.
RANKED: Final = 40

#: How long after the end of a second it is told: by then whoever counted in it is done.
LATE_S: Final = 0.05
_NUMBER: Final = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Values counted by the upper bounds of the ranges they fall into; `unit` is that of bounds and values."""

    name: str
    unit: str
    bounds: Sequence[int]

    def counted(self, values: Iterable[int]) -> Counter[str]:
        """Values as what is added to the figures: one for its range, and itself to the sum."""
        amounts: Counter[str] = Counter()
        total = 0
        for value in values:
            amounts[self._fields[bisect_left(self.bounds, value)]] += 1
            total += value
        amounts[f"{self.name}:sum"] = total
        return amounts

    @property
    def _fields(self) -> Sequence[str]:
        return _fields(self.name, tuple(self.bounds))

    def counts(self, figures: Mapping[str, int]) -> list[int]:
        """How many values fell into each range; the last one has no upper bound."""
        return [figures.get(name, 0) for name in self._fields]

    def total(self, figures: Mapping[str, int]) -> int:
        """The sum of all values."""
        return figures.get(f"{self.name}:sum", 0)

    def quantile(self, share: float, figures: Mapping[str, int]) -> float | None:
        """About the value that this share of all values does not exceed; None where there are none.

        Between two bounds it is taken to grow evenly, as Prometheus's `histogram_quantile` does.
        """
        counts = self.counts(figures)
        if not (wanted := sum(counts)):
            return None
        for at, reached in enumerate(accumulate(counts)):
            if reached >= share * wanted and counts[at]:
                low = self.bounds[at - 1] if at else 0
                if at == len(self.bounds):
                    return float(low)
                missing = reached - share * wanted
                return self.bounds[at] - (self.bounds[at] - low) * missing / counts[at]
        return None


@cache
def _fields(name: str, bounds: tuple[int, ...]) -> list[str]:
    return [f"{name}:{bound}" for bound in [*bounds, "inf"]]


#: From an order's acceptance to its first final state.
ORDER_MS: Final = Histogram(
    name="order_ms",
    unit="ms",
    bounds=(
        *(5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 400, 500, 750),
        *(1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 20_000, 30_000, 60_000),
    ),
)
#: Orders that a worker took together.
BATCH_ORDERS: Final = Histogram(name="batch", unit="orders", bounds=(1, 2, 4, 8, 16, 32, 64, 128, 256))


class Tally:
    """What this process has counted and not told Redis yet."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: what was counted before a fork is the parent's to tell, and its thread is not here."""
        self._adding = threading.Lock()
        self._telling = threading.Lock()
        self._amounts: dict[str, int] = {}
        self._rankings: dict[str, dict[str, int]] = {}
        self._teller: threading.Thread | None = None
        self._ahead_s = 0.0  # Redis's clock less ours

    def add(self, name: str, amount: int = 1) -> None:
        """Count one thing."""
        with self._adding:
            self._amounts[name] = self._amounts.get(name, 0) + amount
        self._see_to_it()

    def add_all(self, amounts: Mapping[str, int]) -> None:
        """Count many things."""
        with self._adding:
            for name, amount in amounts.items():
                self._amounts[name] = self._amounts.get(name, 0) + amount
        self._see_to_it()

    def rank(self, ranking: str, amounts: Mapping[str, int]) -> None:
        """Count by SKU."""
        with self._adding:
            by_sku = self._rankings.setdefault(ranking, {})
            for sku, amount in amounts.items():
                by_sku[sku] = by_sku.get(sku, 0) + amount
        self._see_to_it()

    def _see_to_it(self) -> None:
        if self._teller is None:
            with self._adding:
                if self._teller is None:
                    self._teller = threading.Thread(
                        target=self._tell_every_second, name="figures", daemon=True
                    )
                    self._teller.start()

    def _tell_every_second(self) -> None:
        while True:
            time.sleep(1 - (time.time() + self._ahead_s - LATE_S) % 1)
            self.tell()

    def tell(self) -> None:
        """Bring to Redis what was counted. A Redis that is away is no fault of whoever counts."""
        with self._telling:
            with self._adding:
                amounts, self._amounts = self._amounts, {}
                rankings, self._rankings = self._rankings, {}
            if not amounts and not rankings:
                return
            try:
                (seconds, microseconds), still_open = _looked()
            except RedisError:
                self.add_all(amounts)  # nothing of it was told: it can still be
                return
            self._ahead_s = seconds + microseconds / 1e6 - time.time()
            try:
                _write(seconds - 1, amounts, rankings, still_open)
            except RedisError as error:
                # It may have arrived: told again, it might count twice.
                log.warning("figures lost", reason=str(error))
                if is_of_a_broken_key(error):
                    _throw_out_what_is_broken(seconds - 1)


def _throw_out_what_is_broken(second: int) -> None:
    """Delete those keys of figures that hold something else: else nothing could be counted until somebody did."""
    hashes = (keys.FIGURES, keys.figures_of_second(second))
    rankings = tuple(keys.ranking(name, second // 60) for name in RANKINGS)
    try:
        for name, kind in (*((name, "hash") for name in hashes), *((name, "zset") for name in rankings)):
            if (found := _client().type(name)) not in {kind, "none"}:
                log.warning("a key of figures was deleted, which somebody has broken", key=name, type=found)
                _client().delete(name)
    except RedisError:
        return


def _looked() -> tuple[tuple[int, int], int]:
    """Redis's clock, in seconds and microseconds, and how many orders are open."""
    pipe = _client().pipeline(transaction=False)
    pipe.time()
    pipe.zcard(keys.OPEN_ORDERS)
    clock, still_open = pipe.execute()
    return clock, still_open


def _write(
    second: int, amounts: Mapping[str, int], rankings: Mapping[str, Mapping[str, int]], still_open: int
) -> None:
    """Add to the totals, to this second's and to this minute's, all or nothing."""
    pipe = _client().pipeline(transaction=True)
    of_second = keys.figures_of_second(second)
    for name, amount in amounts.items():
        pipe.hincrby(keys.FIGURES, name, amount)
        pipe.hincrby(of_second, name, amount)
    pipe.hset(of_second, OPEN, still_open)
    pipe.expire(of_second, keys.FIGURES_TTL_S)
    for ranking, by_sku in rankings.items():
        of_minute = keys.ranking(ranking, second // 60)
        for sku, amount in Counter(by_sku).most_common(RANKED):
            pipe.zincrby(of_minute, amount, sku)
        pipe.expire(of_minute, keys.FIGURES_TTL_S)
    pipe.execute()


@cache
def _client() -> TextRedis:
    """As impatient as figures are unimportant."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        decode_responses=True,
        socket_connect_timeout=1,
        socket_timeout=1,
        retry=Retry(NoBackoff(), 0),
    )


tally = Tally()
os.register_at_fork(after_in_child=tally.forget)


def totals(client: TextRedis) -> dict[str, int]:
    """Everything that was ever counted. Raises `StoreUnavailable`."""
    with store_faults():
        pipe = client.pipeline(transaction=False)
        pipe.hgetall(keys.FIGURES)
        (found,) = known(pipe.execute(raise_on_error=False))
    return _numbers(found)


def of_seconds(client: TextRedis, seconds: Iterable[int]) -> list[dict[str, int]]:
    """What was counted in each of these seconds of Unix time. Raises `StoreUnavailable`."""
    with store_faults():
        pipe = client.pipeline(transaction=False)
        for second in seconds:
            pipe.hgetall(keys.figures_of_second(second))
        return [_numbers(found) for found in known(pipe.execute(raise_on_error=False))]


def hottest(client: TextRedis, minutes: Sequence[int]) -> dict[str, Counter[str]]:
    """The rankings over these minutes of Unix time. Raises `StoreUnavailable`."""
    with store_faults():
        pipe = client.pipeline(transaction=False)
        for ranking in RANKINGS:
            for minute in minutes:
                pipe.zrevrange(keys.ranking(ranking, minute), 0, RANKED - 1, withscores=True)
        replies = iter(list(known(pipe.execute(raise_on_error=False))))
    found: dict[str, Counter[str]] = {ranking: Counter() for ranking in RANKINGS}
    for ranking in RANKINGS:
        for _ in minutes:
            for sku, amount in next(replies) or ():
                found[ranking][sku] += int(amount)
    return found


def _numbers(found: Mapping[str, str] | None) -> dict[str, int]:
    """Counts by name. What is no number, or in a key that is no hash, was not counted by us."""
    return {name: int(value) for name, value in (found or {}).items() if _NUMBER.fullmatch(value)}
