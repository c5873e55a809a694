"""All counters of a large catalogue vanish under load: that refuses nobody, and costs little."""

import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import redis

from shop import keys, queue, stock
from shop.domain import Order
from shop.models import Order as OrderRow
from shop.models import Product, StockMovement
from tests.builders import accepted, an_order, assert_at_rest, wait_until
from tests.running import System

SKUS, ORDERS, STOCK = 10_000, 4_000, 1_000
#: So often all counters are deleted while the orders flow.
TIMES = 4


@pytest.fixture
def worker(tmp_path: Path, client: "redis.Redis") -> Iterator[System]:
    """A worker alone."""
    with System(tmp_path) as system:
        yield system.start("worker")


def a_large_catalogue(client: "redis.Redis") -> list[str]:
    """Products with counters."""
    skus = [f"counter-{number}-{uuid.uuid4().hex[:6]}" for number in range(SKUS)]
    Product.objects.bulk_create(
        [Product(sku=sku, name="A product", price=Decimal("2.50"), on_sale=STOCK) for sku in skus]
    )
    StockMovement.objects.bulk_create(
        [StockMovement(sku=sku, kind=StockMovement.Kind.OPENING, delta=STOCK) for sku in skus]
    )
    stock.refresh(client, skus)
    return skus


def some_orders(client: "redis.Redis", skus: list[str]) -> list[Order]:
    """Orders of three lines, on their queue."""
    orders = [an_order(*((sku, 1) for sku in random.sample(skus, 3))) for _ in range(ORDERS)]
    accepted(client, *orders)
    client.lpush(keys.ORDER_QUEUE, *map(queue.fulfil_message, orders))
    return orders


def ended(client: "redis.Redis", least: int) -> None:
    """Wait until at least so many have ended."""
    wait_until(lambda: client.zcard(keys.OPEN_ORDERS) <= ORDERS - least, timeout_s=120, what=f"{least} ends")


@pytest.mark.depth
def test_a_catalogue_that_loses_all_counters_under_load_refuses_no_order(
    worker: System, client: "redis.Redis"
) -> None:
    skus = a_large_catalogue(client)
    before = some_orders(client, skus)
    began = time.monotonic()
    ended(client, ORDERS)
    undisturbed_s = time.monotonic() - began

    orders, deleted = some_orders(client, skus), 0
    began = time.monotonic()
    for at in range(TIMES):
        ended(client, ORDERS * at // TIMES + 1)
        deleted += client.delete(*map(keys.stock, skus))
    ended(client, ORDERS)
    disturbed_s = time.monotonic() - began

    print(
        f"{ORDERS} orders: {ORDERS / undisturbed_s:,.0f}/s, and {ORDERS / disturbed_s:,.0f}/s "
        f"while {deleted} counters were deleted"
    )
    ids = [order.id for order in before + orders]
    ends = Counter(OrderRow.objects.filter(id__in=ids).values_list("status", flat=True))
    assert ends == {"confirmed": 2 * ORDERS}
    assert deleted > SKUS
    assert_at_rest(client)
