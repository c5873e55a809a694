"""Arming fail points (`workers.fail_points`), seeing that somebody reached them, and what has to hold afterwards."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shop import keys, queue, stock
from shop.models import Order as OrderRow
from shop.models import Product
from shop.stores import redis_client
from tests.builders import a_sku, assert_at_rest, free_in_redis, wait_until
from tests.running import Answer, System


class FailPoints:
    """The fail points of processes that were started with `FAIL_POINTS` set to this folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def arm(self, name: str, action: str) -> None:
        """Let the first process that reaches the point do this."""
        (unfinished := self.folder / f"{name}.arming").write_text(action)
        unfinished.rename(self.folder / name)

    def hits(self, name: str = "") -> list[Path]:
        """What is left of each time that the point was reached and armed; without a name, of all points."""
        return sorted(self.folder.glob(f"{name}.*.hit" if name else "*.hit"))

    @contextmanager
    def armed(self, name: str, action: str, *, within_s: float = 10) -> Iterator[None]:
        """Do in here what leads to the point. Fails the test when nobody has reached it soon after."""
        before = len(self.hits(name))
        self.arm(name, action)
        yield
        wait_until(
            lambda: len(self.hits(name)) == before + 1, timeout_s=within_s, what=f"somebody reaching {name}"
        )


def on_sale(units: int) -> str:
    """A SKU whose counter is there."""
    sku = a_sku(stock=units)
    stock.refresh(redis_client(), [sku])
    return sku


def started_again(system: System, name: str) -> None:
    """What died is started again, as a supervisor does."""
    system.kill(name)
    system.start(name)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An order that a client has been promised an end of."""

    key: str
    sku: str
    units: int
    id: str


def placed(system: System, sku: str, units: int) -> Placed:
    """An order for so many units."""
    key = uuid.uuid4().hex
    answer = system.place((sku, units), key=key)
    assert answer.status == 202
    return Placed(key=key, sku=sku, units=units, id=answer.body["id"])


def ends(system: System, *orders: Placed) -> list[str]:
    """The ends of orders, sorted. Each key still stands for its order, and the books have each order once."""
    statuses = [system.end_of(order.id).body["status"] for order in orders]
    for order in orders:
        again = system.place((order.sku, order.units), key=order.key)
        assert (again.status, again.body["id"]) == (202, order.id)
    assert OrderRow.objects.filter(id__in=[order.id for order in orders]).count() == len(orders)
    return sorted(statuses)


def assert_left(sku: str, units: int) -> None:
    """In both stores so many units are left, and soon nothing is open or locked any more."""
    client = redis_client()
    wait_until(lambda: not client.zcard(keys.OPEN_ORDERS), what="every order to be settled")
    # Whoever was taken for dead and is not may still hold a lock, 5 s at most.
    wait_until(lambda: not list(client.scan_iter(match=keys.lock("*"))), timeout_s=6, what="no lock")
    wait_until(lambda: not client.zcard(keys.CANCELLATIONS), what="every cancellation to be carried out")
    product = Product.objects.get(sku=sku)
    assert (free_in_redis(client, sku), product.on_sale - product.confirmed) == (units, units)
    assert_at_rest(client)


def interrupted(system: System, action: str, ask: Callable[[], Answer]) -> None:
    """Ask something of a web process that dies or fails over it."""
    if action == "kill":
        with pytest.raises(OSError, match=r"closed|reset"):
            ask()
        started_again(system, "web")
    else:
        assert ask().status == 500


def housekeeping(task: str) -> None:
    """Let a worker do what the scheduler asks for now and then."""
    # As if the last one were long ago: those that were asked for at the same time are done once.
    redis_client().delete(keys.SWEEPER_HEARTBEAT, keys.LAST_RECONCILE)
    message = queue.message(f"tasks.maintenance.{task}", str(uuid.uuid4()), queue=keys.MAINTENANCE_QUEUE)
    redis_client().lpush(keys.MAINTENANCE_QUEUE, message)
