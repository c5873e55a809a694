"""Stories of stock that is moved, returned and sold at once (`tests.stories` tells the others)."""

import redis

from shop.fulfilment import fulfil
from shop.models import StockMovement
from tests.builders import accepted, an_order, free_in_redis, status_in_books
from tests.interleaving import Story
from tests.stories import cancelling, fulfilling, moving, on_sale, publishing


def made(sku: str) -> int:
    """How many movements were made."""
    return StockMovement.objects.filter(sku=sku, kind="adjustment").count()


def cancelled_while_another_is_sold(client: "redis.Redis") -> Story:
    """An order for 8 of 10 is cancelled while another one wants 8."""
    sku = on_sale(client)
    first, second = orders = accepted(client, an_order((sku, 8)), an_order((sku, 8)))
    fulfil([first], client=client)

    def and_so() -> None:
        assert free_in_redis(client, sku) == (2 if status_in_books(second) == "confirmed" else 10)

    return Story(
        works=[cancelling(first), fulfilling(second)],
        orders=orders,
        ends=[("cancelled", "confirmed"), ("cancelled", "rejected")],
        and_so=and_so,
        switches=2,
    )


def moved_while_cancelled(client: "redis.Redis", delta: int) -> Story:
    """Of 10 units 8 are sold; their order is cancelled while stock is moved."""
    sku = on_sale(client)
    (order,) = accepted(client, an_order((sku, 8)))
    fulfil([order], client=client)

    def and_so() -> None:
        assert made(sku) == 1 or delta < -2
        assert free_in_redis(client, sku) == 10 + delta * made(sku)

    works = [cancelling(order), moving(sku, delta)]
    return Story(
        works=works,
        orders=[order],
        afterwards=publishing(sku),
        ends=[("cancelled",)],
        and_so=and_so,
        switches=2,
    )


def two_movements(client: "redis.Redis", deltas: tuple[int, int]) -> Story:
    """Two clients move stock of which there are 10 units; together they would take too much, or not."""
    sku = on_sale(client)

    def and_so() -> None:
        deltas_made = StockMovement.objects.filter(sku=sku, kind="adjustment").values_list("delta", flat=True)
        assert sorted(deltas_made) in [sorted(deltas), [max(deltas)]]
        assert made(sku) == 1 or 10 + sum(deltas) >= 0
        assert free_in_redis(client, sku) == 10 + sum(deltas_made)

    works = [moving(sku, delta) for delta in deltas]
    return Story(works=works, afterwards=publishing(sku), and_so=and_so, switches=2)
