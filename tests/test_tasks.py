"""What a worker does with a batch that is interrupted."""

import base64
import json
from typing import Any

import pytest
import redis
from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings

import tasks.orders
from shop import books, fulfilment, keys, queue
from tests.builders import a_sku, accepted, an_order
from workers.batching import Unhandled


def too_slow(*_: Any, **__: Any) -> None:
    """For a PostgreSQL that takes longer than a batch may."""
    raise SoftTimeLimitExceeded


def attempts_after_an_interruption(client: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> int:
    """How many attempts an order has used up whose batch took too long in PostgreSQL."""

    (order,) = accepted(client, an_order((a_sku(stock=10), 1)))
    body = base64.b64decode(json.loads(queue.fulfil_message(order))["body"])
    monkeypatch.setattr(books, "decide", too_slow)
    with pytest.raises(SoftTimeLimitExceeded):
        tasks.orders.fulfil_orders([body])
    return int(client.hget(keys.order(order.id), "attempts") or 0)


def test_a_batch_that_took_too_long_costs_its_orders_no_attempt(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempts_after_an_interruption(client, monkeypatch) == 0


def test_a_batch_that_took_too_long_gives_no_attempt_back_that_it_did_not_count(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=10)
    orders = accepted(client, an_order((sku, 1)), an_order((sku, 1)))
    client.hset(keys.order(orders[0].id), "attempts", settings.MAX_ATTEMPTS - 1)
    bodies = [base64.b64decode(json.loads(queue.fulfil_message(order))["body"]) for order in orders]
    monkeypatch.setattr(books, "decide", too_slow)

    with pytest.raises(SoftTimeLimitExceeded):
        tasks.orders.fulfil_orders(bodies)

    attempts = [client.hget(keys.order(order.id), "attempts") for order in orders]
    assert attempts == [str(settings.MAX_ATTEMPTS - 1), "0"]
    assert client.get(keys.lock(sku)) is None


def test_of_a_batch_an_order_that_has_one_attempt_left_makes_it_alone(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    orders = accepted(client, an_order((sku, 1)), an_order((sku, 1)))
    client.hset(keys.order(orders[0].id), "attempts", settings.MAX_ATTEMPTS - 1)
    bodies = [base64.b64decode(json.loads(queue.fulfil_message(order))["body"]) for order in orders]

    assert tasks.orders.fulfil_orders(bodies) == [Unhandled.ALONE, "confirmed"]


def test_without_forgiveness_slow_batches_use_up_an_orders_attempts(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fulfilment, "_forgiven", lambda _: {})

    assert attempts_after_an_interruption(client, monkeypatch) == 1
