"""How many requests of one client may be refused for what is in them, before it has to wait.

To find out what is wrong with a request keeps the event loop from all others for up to 20 ms, and costs its sender nothing.
Each web process counts by itself, in memory. `ORDER_RATE_LIMIT`, which Redis counts, is about the work of workers: requests
that make none have no part in it.
"""

import math
import time
from collections.abc import Callable
from typing import Final

from django.conf import settings

from shop.web.problems import Kind, Problem


class Refusals:
    """A token bucket for each client, kept as the moment at which it is full again (GCRA, ITU-T I.371).

    `per_second`: requests; 0: no limit. Clients are those that have an API key.
    """

    #: Seconds' worth of requests that may be refused at once.
    BURST_S: Final = 4.0
    #: Each further so many bytes of a body count as one more request: examining them costs as much.
    BYTES_FOR_ONE: Final = 16_384
    #: Clients above which those that have waited long enough are forgotten.
    CLIENTS_KEPT: Final = 1_000

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def wait_s(self, client: str) -> int:
        """For how many seconds nothing of this client is read any more; 0 where it has room."""
        full_at = self._full_at.get(client)
        if full_at is None:
            return 0
        return max(0, math.ceil(round(full_at - self._clock() - self.BURST_S, 3)))

    def count(self, client: str, body_bytes: int) -> None:
        """Note that a request of this client was refused."""
        if not self._per_second:
            return
        now = self._clock()
        weight = 1 + body_bytes // self.BYTES_FOR_ONE
        self._full_at[client] = max(now, self._full_at.get(client, now)) + weight / self._per_second
        if len(self._full_at) > self.CLIENTS_KEPT:
            self._full_at = {name: full_at for name, full_at in self._full_at.items() if full_at > now}


def too_many(wait_s: int) -> Problem:
    """What a client is told that has to wait."""
    return Problem(
        kind=Kind.RATE_LIMITED,
        detail="Too many requests of this client were refused for what is in them: correct those, and send this one, with"
        " the same key, after Retry-After.",
        headers={"Retry-After": str(wait_s)},
    )


refusals = Refusals(settings.REFUSED_RATE_LIMIT)
