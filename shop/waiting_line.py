"""How long a queued order has to wait: its place in line, and the rate that was measured in the last seconds."""

import time
from dataclasses import dataclass
from typing import Final

import msgspec
from django.conf import settings

from shop import figures, keys
from shop.stores import StoreUnavailable, store_faults, web_redis

#: The rate is that of so many seconds, told one second late (`shop.figures`).
MEASURED_S: Final = 10
#: Workers take up to so many orders together: whoever has fewer before him is in the next batch.
NEXT_BATCH: Final = 256
#: An order that waits for longer while no order ends waits for workers, not for its turn.
STANDSTILL_S: Final = 5


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a queued order is in line.

    `place`: 1 is the next one; where `is_bound`, it is that or less. `wait_s`: seconds to wait at the measured rate, None
    where none was measured. `is_stuck`: no order has ended of late.
    """

    place: int
    is_bound: bool
    wait_s: int | None
    is_stuck: bool

    @property
    def words(self) -> str:
        """For people."""
        ahead = self.place - 1
        where = "You are next in line."
        if ahead:
            orders = f"{ahead:,} order{'s' * (ahead != 1)}"
            is_are = "is" if ahead == 1 else "are"
            where = f"At most {orders} before yours." if self.is_bound else f"{orders} {is_are} before yours."
        if self.is_stuck:
            return f"{where} No order is moving at the moment: yours is safe, and goes on by itself as soon as they do."
        if self.wait_s is None:
            return where
        return f"{where} {_duration(self.wait_s)}"


def _duration(seconds: int) -> str:
    if seconds < 2:
        return "At the present rate it is your turn at any moment."
    if seconds < 90:
        return f"At the present rate it is your turn in about {seconds} seconds."
    return f"At the present rate it is your turn in about {round(seconds / 60)} minutes."


@dataclass(frozen=True, kw_only=True)
class _Pace:
    """Orders that ended per second of late, those waiting, and until when (monotonic) this is news."""

    orders_per_s: float
    waiting: int
    fresh_until: float


class WaitingLine:
    """What a web process knows of the line: measured at most once a second, however many ask."""

    def __init__(self) -> None:
        self._pace = _Pace(orders_per_s=0, waiting=0, fresh_until=0)

    async def standing(self, order_id: str, accepted_at_ms: int) -> Standing | None:
        """Where a queued order is; None where nobody can tell, or it is not in line any more."""
        try:
            with store_faults():
                rank = await web_redis().zrank(keys.OPEN_ORDERS, order_id)
                pace = await self._measured()
        except StoreUnavailable:
            return None
        if rank is None:
            return None
        age_s = time.time() - accepted_at_ms / 1000
        # The journal is sorted by when orders are looked after, which is the order of their coming only until then.
        is_bound = age_s * 1000 >= settings.SWEEP_AFTER_MS
        place = max(1, pace.waiting) if is_bound else rank + 1
        wait_s = None
        if pace.orders_per_s:
            wait_s = 0 if place <= NEXT_BATCH else round(place / pace.orders_per_s)
        is_stuck = not pace.orders_per_s and age_s > STANDSTILL_S
        return Standing(place=place, is_bound=is_bound, wait_s=wait_s, is_stuck=is_stuck)

    async def _measured(self) -> _Pace:
        if time.monotonic() < self._pace.fresh_until:
            return self._pace
        pipe = web_redis().pipeline(transaction=False)
        pipe.llen(keys.ORDER_QUEUE)
        pipe.hlen(keys.PARKED)
        pipe.time()
        waiting, parked, (now_s, _) = await pipe.execute()
        for second in range(now_s - MEASURED_S - 1, now_s - 1):
            pipe.hgetall(keys.figures_of_second(second))
        ended = [
            sum(int(n) for name, n in counted.items() if name.startswith(figures.ENDED))
            for counted in await pipe.execute()
        ]
        # Seconds in which nothing ended say nothing of how fast workers are: they may have had nothing to do.
        busy = [orders for orders in ended if orders]
        rate = sum(busy) / len(busy) if busy else 0.0
        self._pace = _Pace(orders_per_s=rate, waiting=waiting + parked, fresh_until=time.monotonic() + 1)
        return self._pace


line = WaitingLine()
