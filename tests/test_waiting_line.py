"""What buyers are told of the line: their place, and a wait at the rate that was measured, or none."""

import asyncio
import time
from collections.abc import Iterator

import pytest
import redis
from django.conf import settings

from shop import figures, keys
from shop.stores import web_redis
from shop.waiting_line import Standing, WaitingLine
from tests.builders import accepted, an_order


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop whose connections to Redis end with it."""
    with asyncio.Runner() as runner:
        yield runner.get_loop()
        runner.run(web_redis().aclose())
    web_redis.cache_clear()


def ended(client: "redis.Redis", orders: int, *, seconds_ago: int) -> None:
    second = client.time()[0] - seconds_ago
    client.hset(keys.figures_of_second(second), f"{figures.ENDED}confirmed:", orders)


def standing(loop: asyncio.AbstractEventLoop, order_id: str, age_s: float = 1) -> Standing | None:
    accepted_at_ms = int((time.time() - age_s) * 1000)
    return loop.run_until_complete(WaitingLine().standing(order_id, accepted_at_ms))


def test_the_next_order_is_told_so(client: "redis.Redis", loop: asyncio.AbstractEventLoop) -> None:
    first, _ = accepted(client, an_order(("X", 1)), an_order(("X", 1)))
    client.zadd(keys.OPEN_ORDERS, {first.id: 1})

    found = standing(loop, first.id)

    assert found is not None
    assert found.words == "You are next in line."


def test_the_wait_is_the_place_at_the_rate_of_seconds_in_which_orders_ended(
    client: "redis.Redis", loop: asyncio.AbstractEventLoop
) -> None:
    client.zadd(keys.OPEN_ORDERS, {f"order {at}": at for at in range(3_000)})
    ended(client, 90, seconds_ago=3)
    ended(client, 110, seconds_ago=5)

    found = standing(loop, "order 2999")

    assert found == Standing(place=3_000, is_bound=False, wait_s=30, is_stuck=False)
    assert (
        found.words
        == "2,999 orders are before yours. At the present rate it is your turn in about 30 seconds."
    )


def test_no_wait_is_promised_where_no_order_ends(
    client: "redis.Redis", loop: asyncio.AbstractEventLoop
) -> None:
    client.zadd(keys.OPEN_ORDERS, {"order": 1})

    found = standing(loop, "order", age_s=10)

    assert found == Standing(place=1, is_bound=False, wait_s=None, is_stuck=True)
    assert "No order is moving" in found.words


def test_an_order_that_was_looked_after_knows_only_how_long_the_line_is(
    client: "redis.Redis", loop: asyncio.AbstractEventLoop
) -> None:
    client.zadd(keys.OPEN_ORDERS, {"order": 1})
    client.lpush(keys.ORDER_QUEUE, *range(500))
    ended(client, 100, seconds_ago=3)

    found = standing(loop, "order", age_s=settings.SWEEP_AFTER_MS / 1000 + 1)

    assert found == Standing(place=500, is_bound=True, wait_s=5, is_stuck=False)
    assert found.words.startswith("At most 499 orders before yours.")


def test_an_order_that_has_ended_is_not_in_line(
    client: "redis.Redis", loop: asyncio.AbstractEventLoop
) -> None:
    assert standing(loop, "order") is None
