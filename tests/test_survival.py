"""What dies, freezes or forgets, and how every accepted order still ends, once."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
import redis
from django.db import connection

from shop import keys
from shop.models import Order as OrderRow
from shop.models import Product
from shop.stores import redis_client
from tests.builders import a_sku, assert_at_rest, free_in_redis, wait_until
from tests.running import System
from workers.embedded import PostgresServer, RedisServer


@pytest.fixture
def crew(tmp_path: "os.PathLike[str]", client: "redis.Redis") -> Iterator[System]:
    """A system of this test alone; the sweeper looks after orders sooner than by default."""
    from pathlib import Path

    with System(Path(tmp_path), env={"SWEEP_AFTER_MS": "2000"}) as system:
        yield system.start("web")


def place_many(system: System, sku: str, count: int) -> list[str]:
    """Place orders for one unit each; their ids."""
    answers = [system.place((sku, 1)) for _ in range(count)]
    assert {answer.status for answer in answers} == {202}
    return [answer.body["id"] for answer in answers]


def assert_each_confirmed_once(system: System, ids: list[str], sku: str, stock: int) -> None:
    """All confirmed, counted once, and nothing left over."""
    assert {system.end_of(order_id).body["status"] for order_id in ids} == {"confirmed"}
    assert OrderRow.objects.filter(lines__sku=sku, status="confirmed").count() == len(ids)
    assert Product.objects.get(sku=sku).confirmed == len(ids)
    assert free_in_redis(redis_client(), sku) == stock - len(ids)
    assert_at_rest(redis_client())


def test_orders_of_a_killed_worker_are_finished_by_the_next(crew: System) -> None:
    sku = a_sku(stock=500)
    crew.start("worker")
    ids = place_many(crew, sku, 150)

    crew.kill("worker")
    unfinished = redis_client().zcard(keys.OPEN_ORDERS)
    crew.start("worker", "scheduler")

    assert unfinished > 0
    assert_each_confirmed_once(crew, ids, sku, 500)


def test_killed_pool_processes_lose_no_order(crew: System) -> None:
    sku = a_sku(stock=500)
    crew.start("worker", "scheduler")
    ids: list[str] = []
    placing = threading.Thread(target=lambda: ids.extend(place_many(crew, sku, 200)))
    placing.start()

    for ended in (10, 60, 110, 160):
        wait_until(lambda ended=ended: OrderRow.objects.filter(lines__sku=sku).count() >= ended)
        child = crew.pids("worker")[1]
        os.kill(child, signal.SIGKILL)
        wait_until(lambda child=child: child not in crew.pids("worker"))
    placing.join()

    assert_each_confirmed_once(crew, ids, sku, 500)


def test_a_worker_frozen_for_longer_than_its_locks_live_oversells_nothing(crew: System) -> None:
    sku = a_sku(stock=100)
    crew.start("worker")
    ids = place_many(crew, sku, 30)
    wait_until(lambda: OrderRow.objects.filter(lines__sku=sku).exists())
    frozen = crew.pids("worker")
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    ids += place_many(crew, sku, 90)
    thawed = threading.Timer(7, lambda: [os.kill(pid, signal.SIGCONT) for pid in frozen])
    thawed.start()

    other = System(crew.folder, env=crew.env)
    with other:
        other.start("worker", "scheduler")
        statuses = [crew.end_of(order_id).body["status"] for order_id in ids]
        thawed.join()
        wait_until(lambda: not redis_client().hlen("unacked"), what="the last acknowledgement")

    assert (statuses.count("confirmed"), statuses.count("rejected")) == (100, 20)
    assert Product.objects.get(sku=sku).confirmed == 100
    wait_until(lambda: not list(redis_client().scan_iter(match=keys.lock("*"))))
    assert_at_rest(redis_client())


def test_an_order_whose_message_was_lost_is_enqueued_again_by_the_sweeper(crew: System) -> None:
    sku = a_sku(stock=10)
    ids = place_many(crew, sku, 3)
    redis_client().delete(keys.ORDER_QUEUE)

    crew.start("worker", "scheduler")

    assert_each_confirmed_once(crew, ids, sku, 10)


def test_without_the_sweeper_a_lost_message_is_a_lost_order(crew: System) -> None:
    (order_id,) = place_many(crew, a_sku(stock=10), 1)
    redis_client().delete(keys.ORDER_QUEUE)

    crew.start("worker")

    answer = crew.get(f"/api/v1/orders/{order_id}", {"Prefer": "wait=4"})
    assert answer.body["status"] == "queued"


def test_orders_are_taken_while_postgresql_is_away_and_finished_when_it_is_back(
    crew: System, postgres_server: PostgresServer
) -> None:
    sku = a_sku(stock=100)
    crew.start("worker", "scheduler")
    ended = crew.end_of(place_many(crew, sku, 1)[0])

    postgres_server.stop()
    try:
        began = time.monotonic()
        ids = place_many(crew, sku, 20)
        took_s = time.monotonic() - began
        ready = crew.get("/readyz")
        seen = crew.get(ended.body["href"])
    finally:
        postgres_server.start()
        connection.close()  # this test's own, which broke with the server

    assert took_s < 20 * 2
    assert (ready.status, "PostgreSQL" in ready.body["detail"]) == (503, True)
    assert seen.body["status"] == "confirmed"
    assert_each_confirmed_once(crew, [ended.body["id"], *ids], sku, 100)


def test_without_redis_orders_are_refused_quickly_and_the_same_key_works_later(
    crew: System, redis_server: RedisServer
) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    crew.start("worker", "scheduler")
    ended = crew.end_of(place_many(crew, sku, 1)[0])

    redis_server.stop()
    try:
        began = time.monotonic()
        refused = crew.place((sku, 1), key=key)
        took_s = time.monotonic() - began
        seen = crew.get(ended.body["href"])
        unknown = crew.get(f"/api/v1/orders/{uuid.uuid4()}")
    finally:
        redis_server.start()
    wait_until(lambda: crew.place((sku, 1), key=key).status == 202)
    later = crew.place((sku, 1), key=key)

    assert (refused.status, refused.body["type"], took_s < 2) == (503, "unavailable", True)
    assert int(refused.headers["Retry-After"]) >= 1
    assert (seen.status, seen.body["status"]) == (200, "confirmed")
    assert unknown.status == 503
    assert_each_confirmed_once(crew, [ended.body["id"], later.body["id"]], sku, 10)


def test_a_frozen_redis_means_503_within_two_seconds(crew: System, redis_server: RedisServer) -> None:
    sku = a_sku(stock=10)
    place_many(crew, sku, 1)
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        refused = crew.place((sku, 1))
        took_s = time.monotonic() - began
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)

    assert (refused.status, took_s < 2) == (503, True)


def test_redis_killed_under_load_forgets_nothing_it_accepted(crew: System, redis_server: RedisServer) -> None:
    sku = a_sku(stock=500)
    crew.start("worker", "scheduler")
    ids = place_many(crew, sku, 60)

    os.kill(redis_server.pid, signal.SIGKILL)
    redis_server.stop()
    redis_server.start()

    assert_each_confirmed_once(crew, ids, sku, 500)


def test_garbage_on_the_queue_does_not_stop_the_orders_behind_it(crew: System) -> None:
    sku = a_sku(stock=10)
    from shop import queue

    redis_client().lpush(
        keys.ORDER_QUEUE, queue.message(queue.FULFIL_TASK, str(uuid.uuid4()), {"no": "order"})
    )
    redis_client().lpush(keys.ORDER_QUEUE, queue.message("tasks.of.another.release", str(uuid.uuid4())))
    ids = place_many(crew, sku, 2)

    crew.start("worker", "scheduler")

    assert_each_confirmed_once(crew, ids, sku, 10)
