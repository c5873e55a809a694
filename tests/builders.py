"""Valid things, so that a test states only what it is about, and the check that holds at rest."""

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import psycopg
import redis
from django.conf import settings
from django.db import connection

import shop
from shop import catalogue, intake, keys, reconciliation, scripts
from shop.domain import Line, Order
from shop.fulfilment import Busy, Outcome, Rules, fulfil
from shop.models import Order as OrderRow
from shop.models import Product, StockMovement
from shop.stores import redis_client

_numbers = itertools.count()

SAMPLE_CATALOGUE = str(Path(shop.__file__).parent / "sample_catalogue.csv")


def a_sku(stock: int | None = 10, sku: str = "", name: str = "A product") -> str:
    """A new SKU with `stock` units on sale; None: a SKU that does not exist."""
    sku = sku or f"SKU {next(_numbers)}-{uuid.uuid4().hex[:6]}"
    if stock is not None:
        Product.objects.create(sku=sku, name=name, price=Decimal("2.50"), on_sale=stock)
        StockMovement.objects.create(sku=sku, kind=StockMovement.Kind.OPENING, delta=stock)
    return sku


def the_sample_catalogue() -> None:
    """The products that `make up` starts with; stock that exists stays. X is left out, which is any test's."""
    items = [item for item in catalogue.read(SAMPLE_CATALOGUE) if item.sku != "X"]
    catalogue.store(items, reason="tests")
    catalogue.publish_stock(redis_client(), items)


def wipe_books() -> None:
    """Leave nothing in PostgreSQL: neither products nor orders nor movements."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_stockmovement DISABLE TRIGGER USER")
        cursor.execute("TRUNCATE shop_order, shop_orderidentity, shop_orderline, shop_product")
        cursor.execute("TRUNCATE shop_stockmovement, shop_movementrequest")
        cursor.execute("ALTER TABLE shop_stockmovement ENABLE TRIGGER USER")


def an_order(*lines: tuple[str, int], client: str = "shop", key: str | None = None) -> Order:
    """An order for these SKUs and quantities."""
    return intake.new_order(
        client=client,
        key=key or uuid.uuid4().hex,
        lines=[Line(sku, quantity) for sku, quantity in lines],
        customer=None,
        reference=None,
        now_ms=int(time.time() * 1000),
    )


def accepted(client: "redis.Redis", *orders: Order) -> list[Order]:
    """Orders with a record in Redis, as after their 202, and no message on the queue."""
    for order in orders:
        now_ms = int(time.time() * 1000)
        args = [
            order.id,
            order.client,
            order.fingerprint,
            intake._json.encode(order),
            now_ms,
            now_ms + 20_000,
        ]
        scripts.run(client, "restore", [keys.order(order.id), keys.OPEN_ORDERS], args)
    return list(orders)


def status_in_redis(client: "redis.Redis", order: Order) -> str | None:
    """What a poller is told."""
    return client.hget(keys.order(order.id), "status")


def status_in_books(order: Order) -> str | None:
    """What PostgreSQL has decided."""
    return OrderRow.objects.filter(id=order.id).values_list("status", flat=True).first()


def free_in_redis(client: "redis.Redis", sku: str) -> int:
    """Units free to sell, of a counter that is there."""
    counter = client.get(keys.stock(sku))
    assert counter is not None, f"{sku} has no counter"
    return int(counter)


def assert_at_rest(client: "redis.Redis") -> None:
    """Put on sale = available in Redis + confirmed in PostgreSQL; nothing locked, open or being cancelled."""
    assert list(client.scan_iter(match=keys.lock("*"))) == []
    assert client.zrange(keys.OPEN_ORDERS, 0, -1) == []
    assert client.zrange(keys.CANCELLATIONS, 0, -1) == []
    report = reconciliation.reconcile(client, ledger=True)
    assert [str(difference) for difference in report.differences] == []


def at_once(*works: Callable[[], object]) -> list[object]:
    """Run all of these at the same moment, each in its own thread; their results, or what they raised."""
    barrier = threading.Barrier(len(works))
    results: list[object] = [None] * len(works)

    def run(at: int) -> None:
        barrier.wait()
        try:
            results[at] = works[at]()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results[at] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def fulfilled(
    orders: list[Order], *, client: "redis.Redis", rules: Rules | None = None
) -> dict[str, Outcome]:
    """Fulfil orders, and again those that met a lock or a row, as it is done with parked ones."""
    outcomes: dict[str, Outcome] = {}
    waiting = orders

    def none_waits() -> bool:
        nonlocal waiting
        outcomes.update(fulfil(waiting, client=client, rules=rules))
        waiting = [order for order in waiting if isinstance(outcomes[order.id], Busy)]
        return not waiting

    wait_until(none_waits, what="the end of all orders")
    return {order.id: outcomes[order.id] for order in orders}


@contextmanager
def row_held(sku: str) -> Iterator[None]:
    """Another transaction holds the row of a product."""
    with psycopg.connect(settings.DATABASE_URL) as somebody:
        somebody.execute("SELECT 1 FROM shop_product WHERE sku = %s FOR UPDATE", [sku])
        yield


def somebody_waits_for_us() -> bool:
    """Whether another connection to PostgreSQL waits for what this one has locked."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        )
        return cursor.fetchone() is not None


def wait_until(
    condition: Callable[[], object], *, timeout_s: float = 30, what: str = "the condition"
) -> None:
    """Wait for a condition; fails the test when it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s} s")
        time.sleep(0.02)
