"""Two workers and one SKU that everybody wants: no order waits much longer than those that were accepted with it."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pytest
import redis

from shop import keys, queue
from shop.domain import Order
from shop.models import Order as OrderRow
from tests.builders import a_sku, accepted, an_order, assert_at_rest, wait_until
from tests.running import System
from tests.test_parking import have_ended

ORDERS = 10_000
#: Orders on each side of one that were accepted with it.
NEIGHBOURS = 100
MOST_RATIO = 3


def waits_s(orders: Sequence[Order], since: float) -> list[float]:
    """How long each of the orders has waited for its end."""
    ids = [order.id for order in orders]
    ended = {str(each.id): each.updated_at for each in OrderRow.objects.filter(id__in=ids)}
    return [ended[order_id].timestamp() - since for order_id in ids]


def ratios(waits: Sequence[float]) -> list[float]:
    """Each wait to the median of those of its neighbours."""
    return [
        wait / median(waits[max(0, at - NEIGHBOURS) : at + NEIGHBOURS + 1]) for at, wait in enumerate(waits)
    ]


@pytest.mark.depth
def test_of_ten_thousand_orders_for_one_sku_none_waits_thrice_as_long_as_its_neighbours(
    tmp_path: Path, client: "redis.Redis"
) -> None:
    sku = a_sku(stock=ORDERS)
    orders = accepted(client, *(an_order((sku, 1)) for _ in range(ORDERS)))
    messages = [queue.fulfil_message(order) for order in orders]

    with System(tmp_path) as first, System(tmp_path) as second:
        first.start("worker")
        second.start("worker")
        placed_at = time.time()
        client.lpush(keys.ORDER_QUEUE, *messages)
        wait_until(have_ended(orders), timeout_s=60, what="the end of all orders")

    waits = waits_s(orders, placed_at)

    assert max(ratios(waits)) < MOST_RATIO
    assert_at_rest(client)
