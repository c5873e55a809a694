"""A Redis that is there and says "not now" is one that is away: 503 and another try, never an error of ours."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from shop import stores
from shop.stores import StoreUnavailable, redis_is_away, store_faults
from tests.builders import a_sku
from tests.refusals import REFUSALS, Refusal
from tests.running import System


def by_command(client: "redis.Redis") -> None:
    client.set("key", 1, ex=1)


def by_pipeline(client: "redis.Redis") -> None:
    client.pipeline(transaction=False).set("key", 1, ex=1).execute()


def by_transaction(client: "redis.Redis") -> None:
    client.pipeline().set("key", 1, ex=1).execute()


def by_script(client: "redis.Redis") -> None:
    client.eval("return redis.call('SET', 'key', 1, 'EX', 1)", 0)


def by_script_of_many_commands(client: "redis.Redis") -> None:
    client.pipeline().eval("return redis.call('SET', 'key', 1, 'EX', 1)", 0).execute()


WAYS = [by_command, by_pipeline, by_transaction, by_script, by_script_of_many_commands]


@pytest.mark.parametrize("refuse", REFUSALS)
@pytest.mark.parametrize("write", WAYS)
def test_whatever_way_redis_says_not_now_it_is_heard(
    client: "redis.Redis", refuse: Refusal, write: Callable[[Any], None]
) -> None:
    with refuse(client), pytest.raises(StoreUnavailable), store_faults():
        write(client)

    write(client)


def test_a_mistake_of_ours_is_not_taken_for_a_redis_that_is_away(client: "redis.Redis") -> None:
    with pytest.raises(redis.ResponseError, match="syntax") as caught, store_faults():
        client.pipeline().eval("return redis.call('SET', 'key', 'WRONGTYPE', 'BUSY')", 0).execute()

    assert not redis_is_away(caught.value)


@pytest.mark.parametrize("refuse", REFUSALS)
def test_an_order_that_redis_refuses_for_now_is_answered_503_and_its_key_works_later(
    system: System, refuse: Refusal
) -> None:
    sku, client = a_sku(stock=10), stores.redis_client()
    system.place((sku, 1))

    with refuse(client):
        refused = system.place((sku, 1), key=f"refused-by-{refuse.__name__}")
        scraped = system.get("/metrics")

    assert refused.status == 503
    assert refused.headers["Retry-After"]
    assert scraped.status == 200
    placed = system.place((sku, 1), key=f"refused-by-{refuse.__name__}")
    assert system.end_of(placed.body["id"]).body["status"] == "confirmed"
