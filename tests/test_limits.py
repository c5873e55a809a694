"""Rate limit and queue limit: refused quickly, told when to come back, and the key works later."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shop.clients import create_key
from tests.builders import a_sku, wait_until
from tests.running import System


@pytest.fixture
def limited(tmp_path: Path, client: "redis.Redis") -> Iterator[System]:
    """A system that takes 5 orders a second from each client and lets 8 wait."""
    with System(tmp_path, env={"ORDER_RATE_LIMIT": "5", "QUEUE_LIMIT": "8"}) as system:
        yield system.start("web")


def test_a_client_over_its_rate_hears_429_and_another_client_does_not(limited: System) -> None:
    sku, key = a_sku(), uuid.uuid4().hex
    body = {"items": [{"sku": sku, "quantity": 1}]}
    stranger = create_key(f"stranger-{key[:8]}", ["orders"])

    answers = [limited.place((sku, 1), key=f"{key}-{n}") for n in range(7)]
    other = limited.send("POST", "/api/v1/orders", body, {"Idempotency-Key": key}, api_key=stranger)

    assert [answer.status for answer in answers] == [202] * 5 + [429] * 2
    assert (answers[6].body["type"], answers[6].headers["Retry-After"]) == ("rate-limited", "1")
    assert other.status == 202
    wait_until(lambda: limited.place((sku, 1), key=f"{key}-6").status == 202)
    replayed = limited.place((sku, 1), key=f"{key}-0")
    assert (replayed.status, replayed.headers["Idempotency-Replayed"]) == (202, "true")


def test_a_full_queue_means_503_until_a_worker_has_emptied_it(limited: System) -> None:
    sku, key = a_sku(stock=100), uuid.uuid4().hex
    body = {"items": [{"sku": sku, "quantity": 1}]}
    clients = [create_key(f"c{n}-{key[:8]}", ["orders"]) for n in range(3)]

    answers = [
        limited.send(
            "POST", "/api/v1/orders", body, {"Idempotency-Key": f"{key}-{n}"}, api_key=clients[n % 3]
        )
        for n in range(9)
    ]
    limited.start("worker")

    assert [answer.status for answer in answers] == [202] * 8 + [503]
    assert (answers[8].body["type"], "Retry-After" in answers[8].headers) == ("queue-full", True)
    wait_until(lambda: limited.place((sku, 1), key=f"{key}-8").status == 202)
