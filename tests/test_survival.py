"""What dies, freezes or forgets, and how every accepted order still ends, once."""

import asyncio
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator

import msgspec
import pytest
import redis
from django.db import connection

from shop import books, keys, queue
from shop.books import Intent, Question
from shop.domain import Order
from shop.models import Order as OrderRow
from shop.models import Product
from shop.stores import redis_client
from tests.builders import (
    a_sku,
    accepted,
    an_order,
    assert_at_rest,
    free_in_redis,
    status_in_books,
    wait_until,
)
from tests.running import System, frozen
from workers.app import app
from workers.embedded import PostgresServer, RedisServer
from workers.proc import descendants


@pytest.fixture
def crew(tmp_path: "os.PathLike[str]", client: "redis.Redis") -> Iterator[System]:
    """A system of this test alone; what died, and what was lost, is found sooner than by default."""
    from pathlib import Path

    with System(Path(tmp_path), env={"SWEEP_AFTER_MS": "2000"}) as system:
        system.worker_app = "tests.hasty_worker"
        yield system.start("web")


def place_many(system: System, sku: str, count: int) -> list[str]:
    """Place orders for one unit each; their ids."""
    answers = [system.place((sku, 1)) for _ in range(count)]
    assert {answer.status for answer in answers} == {202}
    return [answer.body["id"] for answer in answers]


def assert_each_confirmed_once(system: System, ids: list[str], sku: str, stock: int) -> None:
    """All confirmed, counted once, and nothing left over."""
    assert {system.end_of(order_id).body["status"] for order_id in ids} == {"confirmed"}
    # Who polls may hear it from PostgreSQL, before Redis is told.
    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="every order to be settled")
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
    other.worker_app = crew.worker_app
    with other:
        other.start("worker", "scheduler")
        statuses = [crew.end_of(order_id).body["status"] for order_id in ids]
        thawed.join()
        wait_until(lambda: not redis_client().hlen("unacked"), what="the last acknowledgement")

    assert (statuses.count("confirmed"), statuses.count("rejected")) == (100, 20)
    assert Product.objects.get(sku=sku).confirmed == 100
    wait_until(lambda: not list(redis_client().scan_iter(match=keys.lock("*"))))
    assert_at_rest(redis_client())


def test_an_order_that_somebody_revoked_in_flower_ends_all_the_same(
    crew: System, client: "redis.Redis"
) -> None:
    sku = a_sku(stock=10)
    order, alone = accepted(client, an_order((sku, 1)), an_order((sku, 1)))
    messages = [msgspec.json.decode(queue.fulfil_message(each)) for each in (order, alone)]
    messages[1]["headers"]["redelivered"] = True
    crew.start("worker")

    assert app.control.revoke([order.id, alone.id], reply=True, timeout=5)
    client.lpush(keys.ORDER_QUEUE, *map(msgspec.json.encode, messages))

    wait_until(lambda: not client.zcard(keys.OPEN_ORDERS), what="the end of both")
    assert {status_in_books(order), status_in_books(alone)} == {"confirmed"}
    assert crew.log("worker").count("was revoked, and is done all the same") >= 2


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


def test_a_frozen_postgresql_does_not_stop_the_intake_of_orders(
    crew: System, postgres_server: PostgresServer
) -> None:
    sku = a_sku(stock=100)
    place_many(crew, sku, 1)
    connection.close()

    answers = []
    with frozen(postgres_server.pid, *descendants(postgres_server.pid)):
        for _ in range(5):
            began = time.monotonic()
            answers.append((crew.place((sku, 1)).status, time.monotonic() - began < 2))

    assert answers == [(202, True)] * 5


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


def undecided(order_id: str) -> Order:
    """The order as its worker would get it."""
    document = redis_client().hget(keys.order(order_id), "document")
    return msgspec.json.decode(document, type=Order)


def test_a_state_read_from_the_books_while_redis_was_away_is_not_taken_back(
    crew: System, redis_server: RedisServer
) -> None:
    sku = a_sku(stock=10)
    (order_id,) = place_many(crew, sku, 1)
    books.decide([Question(order=undecided(order_id), intent=Intent.TAKE)])

    redis_server.stop()
    try:
        meanwhile = crew.get(f"/api/v1/orders/{order_id}").body["status"]
    finally:
        redis_server.start()
    wait_until(lambda: crew.get(f"/api/v1/orders/{order_id}").status == 200)
    afterwards = crew.get(f"/api/v1/orders/{order_id}").body["status"]

    assert (meanwhile, afterwards) == ("confirmed", "confirmed")


def test_an_end_that_somebody_may_have_read_is_not_cancelled_away(crew: System) -> None:
    (order_id,) = place_many(crew, a_sku(stock=0), 1)
    books.decide([Question(order=undecided(order_id), intent=Intent.TAKE)])

    refused = crew.send("POST", f"/api/v1/orders/{order_id}/cancel")
    crew.start("worker")

    assert refused.status == 409
    assert crew.end_of(order_id).body["status"] == "rejected"


def test_a_final_answer_is_the_same_to_the_byte_from_either_store(crew: System) -> None:
    crew.start("worker")
    (order_id,) = place_many(crew, a_sku(stock=10), 1)
    from_redis = crew.end_of(order_id)
    redis_client().delete(keys.order(order_id))

    from_books = crew.get(f"/api/v1/orders/{order_id}")

    assert from_books.body == from_redis.body
    assert from_books.headers["ETag"] == from_redis.headers["ETag"]


def test_a_thousand_clients_can_wait_at_once(crew: System) -> None:
    (order_id,) = place_many(crew, a_sku(stock=10), 1)
    head = f"GET /api/v1/orders/{order_id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {crew.api_key}\r\n"

    async def wait_for_the_order() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", crew.port)
        writer.write(f"{head}Prefer: wait=30\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer

    async def all_of_them() -> list[bytes]:
        waiting = [asyncio.create_task(wait_for_the_order()) for _ in range(1000)]
        await asyncio.to_thread(crew.start, "worker")
        return await asyncio.gather(*waiting)

    answers = asyncio.run(all_of_them())

    assert {answer.split(b" ")[1] for answer in answers} == {b"200"}
    assert all(b'"status":"confirmed"' in answer for answer in answers)


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


def test_a_redis_that_takes_no_writes_for_a_while_costs_no_order_and_no_worker(crew: System) -> None:
    sku = a_sku(stock=500)
    crew.start("worker", "scheduler")
    crew.end_of(crew.place((sku, 1)).body["id"])
    ids = place_many(crew, sku, 20)

    redis_client().config_set("maxmemory", 1)
    try:
        refused = crew.place((sku, 1))
        wait_until(lambda: "OutOfMemoryError" in crew.log("worker"), what="the worker's own look at it")
    finally:
        redis_client().config_set("maxmemory", 0)

    assert refused.status == 503
    assert {crew.end_of(order_id).body["status"] for order_id in ids} == {"confirmed"}
    assert crew.is_up("worker")


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
