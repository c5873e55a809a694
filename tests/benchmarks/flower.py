"""This system with Flower attached: an order that Flower did not see makes the round wrong."""

import base64
import re
from collections.abc import Sequence
from typing import Final

from tests.benchmarks import wire
from tests.benchmarks.reserva import Books, Reserva
from tests.benchmarks.systems import ask, wait_until

TASK: Final = "tasks.orders.fulfil_order"
#: Flower reads events on one thread and may be behind when the last order ends.
CATCH_UP_S: Final = 60.0
_SUCCEEDED: Final = re.compile(
    rf'^flower_events_total{{(?=[^}}]*task="{re.escape(TASK)}")(?=[^}}]*type="task-succeeded")[^}}]*}} (\S+)$',
    re.MULTILINE,
)


def succeeded(metrics: str) -> int:
    """Orders that Flower saw succeed, by what it tells Prometheus."""
    return sum(int(float(count)) for count in _SUCCEEDED.findall(metrics))


class WithFlower(Reserva):
    """Each round is over when Flower has counted as many successes as orders were accepted."""

    def snapshot(self, skus: Sequence[str]) -> Books:
        """What the books say, and how many successes Flower has counted."""
        self._seen_before = self.seen()
        return super().snapshot(skus)

    def seen(self) -> int:
        """The orders that it saw succeed so far."""
        status = self.status()
        host, _, port = status["flower_url"].rpartition("/")[2].partition(":")
        login = base64.b64encode(f"{status['flower_user']}:{status['flower_password']}".encode()).decode()
        address = (host, int(port))
        headers = {"Authorization": f"Basic {login}"}
        answer = ask(address, wire.request("GET", "/metrics", address, headers)).decode()
        return succeeded(answer)

    def faults(self, before: Books, accepted: Sequence[str]) -> list[str]:
        """Also the orders that Flower does not know of."""
        seen_before = self._seen_before
        found = super().faults(before, accepted)
        try:
            wait_until(
                lambda: self.seen() - seen_before >= len(accepted),
                within_s=CATCH_UP_S,
                what="orders in Flower",
            )
        except TimeoutError:
            found.append(f"Flower saw {self.seen() - seen_before} of {len(accepted)} orders succeed")
        return found
