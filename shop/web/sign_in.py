"""Wrong passwords: how long a name has to wait after them, and which addresses they came from.

Counted by name and address together, so that no stranger can lock a name of the staff out. Each process counts for
itself, in memory: it must work while Redis is away, and N processes allow N times as many guesses of 12 characters.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

#: Wrong passwords that cost no wait: people mistype.
FREE: Final = 5
#: The first wait in seconds; each further wrong password doubles it, up to the longest.
WAIT_S: Final = 15.0
WAIT_MAX_S: Final = 300.0
#: Without a further one, wrong passwords are forgotten after so many seconds.
MEMORY_S: Final = 900.0
#: Names and addresses are a stranger's to choose, and must not fill memory. Those of longest ago are forgotten first.
LIMIT: Final = 10_000
#: An address that has sent a wrong password within this many seconds stands behind all others.
SUSPECT_S: Final = 60.0


@dataclass(slots=True)
class _Failed:
    times: int
    last_at: float


class Failures:
    """Wrong passwords of a process. Moments are those of the monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._by_name: OrderedDict[tuple[str, str], _Failed] = OrderedDict()
        self._by_address: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, name: str, address: str, now: float) -> float:
        """How long this name must not be tried from this address; 0 where it may be now."""
        with self._lock:
            failed = self._by_name.get((name, address))
        if failed is None or failed.times < FREE or now >= failed.last_at + MEMORY_S:
            return 0.0
        wait_s = min(WAIT_S * 2.0 ** min(failed.times - FREE, 10), WAIT_MAX_S)
        return max(0.0, failed.last_at + wait_s - now)

    def add(self, name: str, address: str, now: float) -> None:
        """Count a wrong password."""
        with self._lock:
            failed = self._by_name.pop((name, address), None)
            times = failed.times if failed and now < failed.last_at + MEMORY_S else 0
            self._by_name[name, address] = _Failed(times + 1, now)
            self._by_address.pop(address, None)
            self._by_address[address] = now
            for counted in (self._by_name, self._by_address):
                while len(counted) > LIMIT:
                    counted.popitem(last=False)

    def forget(self, name: str, address: str) -> None:
        """It was the right one."""
        with self._lock:
            self._by_name.pop((name, address), None)
            self._by_address.pop(address, None)

    def is_suspect(self, address: str, now: float) -> bool:
        """Whether wrong passwords came from this address just now."""
        with self._lock:
            last_at = self._by_address.get(address)
        return last_at is not None and now < last_at + SUSPECT_S


failures = Failures()
