"""Orders, deliveries and cancellations that keep coming, and all that was shown of them."""

import http.client
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from shop import keys
from shop.stores import redis_client
from tests.running import System

BUYERS = 2
#: Seconds between two deliveries, and between two cancellations.
DELIVERY_EVERY_S, CANCELLATION_EVERY_S = 0.1, 0.05
#: In what time all orders and cancellations have ended, in seconds.
ENDS_WITHIN_S = 120


@dataclass(frozen=True)
class Delivery:
    """A stock movement that was answered with 201."""

    request: str
    sku: str
    units: int
    reason: str


@dataclass(kw_only=True)
class Seen:
    """All that clients were shown. `ends`: of orders, in turn; `cancelled`: orders whose cancellation was accepted."""

    accepted: set[str] = field(default_factory=set)
    ends: dict[str, list[str]] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    deliveries: list[Delivery] = field(default_factory=list)

    @property
    def confirmed(self) -> set[str]:
        """Orders that were shown as confirmed."""
        return {order for order, ends in list(self.ends.items()) if ends[0] == "confirmed"}


class RushHour:
    """Clients that order, deliver and cancel, in threads, from entering to leaving.

    `plenty`: SKUs that never run out; `fed`: SKUs that are sold as fast as they are delivered.
    """

    def __init__(self, system: System, plenty: list[str], fed: list[str]) -> None:
        self.seen = Seen()
        self._system = system
        self._plenty, self._fed = plenty, fed
        self._over = threading.Event()
        self._failures: list[BaseException] = []
        works = [*[self._buy] * BUYERS, self._deliver, self._cancel, self._listen]
        self._threads = [threading.Thread(target=self._until_over, args=(work,)) for work in works]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert self._failures == []

    def _until_over(self, work: Callable[["_Connection"], None]) -> None:
        client = _Connection(self._system)
        try:
            work(client)
        except BaseException as failure:  # noqa: BLE001 - `__exit__` tells it
            self._failures.append(failure)
        finally:
            client.close()

    def _buy(self, client: "_Connection") -> None:
        while not self._over.is_set():
            lines = [(random.choice(self._plenty), 1), (random.choice(self._plenty + self._fed), 1)]
            items = [{"sku": sku, "quantity": units} for sku, units in dict(lines).items()]
            status, order = client.insist("/api/v1/orders", {"items": items}, self._over)
            if status == 202:
                self.seen.accepted.add(order["id"])

    def _deliver(self, client: "_Connection") -> None:
        while not self._over.wait(DELIVERY_EVERY_S):
            sku, units, reason = (
                random.choice(self._fed),
                random.randint(5, 20),
                f"pallet {uuid.uuid4().hex[:8]}",
            )
            path = f"/api/v1/products/{sku}/stock-movements"
            status, made = client.insist(path, {"delta": units, "reason": reason}, threading.Event())
            assert status == 201, made
            self.seen.deliveries.append(Delivery(made["id"], sku, units, reason))

    def _cancel(self, client: "_Connection") -> None:
        while not self._over.wait(CANCELLATION_EVERY_S):
            shown = list(self.seen.ends)[-200:]
            if shown and self.seen.ends[order_id := random.choice(shown)] == ["confirmed"]:
                status, _ = client.insist(f"/api/v1/orders/{order_id}/cancel", None, self._over)
                if status == 202:
                    self.seen.cancelled.add(order_id)

    def _listen(self, _: "_Connection") -> None:
        """What is published is what pollers are shown, and all of it."""
        with redis_client().pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.subscribe(keys.SETTLED_CHANNEL)
            while not self._over.is_set():
                self._hear(subscription)
            is_late = passed(ENDS_WITHIN_S)
            while self._is_any_left() and not is_late():
                self._hear(subscription)
            while self._hear(subscription):
                pass

    def _hear(self, subscription: Any) -> bool:
        message = subscription.get_message(timeout=0.2)
        for line in message["data"].split("\n") if message else []:
            order_id, status, *_ = line.split(" ")
            self.seen.ends.setdefault(order_id, []).append(status)
        return message is not None

    @staticmethod
    def _is_any_left() -> bool:
        return bool(redis_client().zcard(keys.OPEN_ORDERS) or redis_client().zcard(keys.CANCELLATIONS))

    def delivered(self) -> Mapping[str, int]:
        """Units that were delivered of each SKU."""
        units: Counter[str] = Counter()
        for delivery in self.seen.deliveries:
            units[delivery.sku] += delivery.units
        return units


class _Connection:
    """A connection that is kept, and made anew when it breaks."""

    def __init__(self, system: System) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", system.port, timeout=40)
        self._authorization = f"Bearer {system.api_key}"

    def insist(self, path: str, body: object, over: threading.Event) -> tuple[int, Any]:
        """POST under one key, again and again while it is answered 503 or not at all; 0 where it was over before."""
        key = uuid.uuid4().hex
        while True:
            with suppress(OSError, http.client.HTTPException):
                status, answer = self._post(path, body, key)
                if status < 500:
                    return status, answer
            self.close()
            if over.wait(0.1):
                return 0, None

    def _post(self, path: str, body: object, key: str) -> tuple[int, Any]:
        headers = {"Authorization": self._authorization, "Idempotency-Key": key}
        raw = None
        if body is not None:
            raw, headers["Content-Type"] = json.dumps(body), "application/json"
        self._http.request("POST", path, raw, headers)
        response = self._http.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        """End it; the next request opens another one."""
        self._http.close()


def passed(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since this was called."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until
