"""How processes end when they are told to: what they have in hand is finished or given back, and soon."""

import http.client
import os
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from django.db import connection

from shop import keys
from shop.models import Order as OrderRow
from shop.models import Product
from shop.stores import redis_client
from shop.web.process import DRAIN_S
from tests.builders import a_sku, assert_at_rest, free_in_redis, wait_until
from tests.running import Answer, System, frozen
from workers import heartbeat
from workers.embedded import PostgresServer, RedisServer
from workers.proc import descendants, is_running

#: In what time each kind of process ends; what was measured stands in ARCHITECTURE.md, Note [Stopping].
WITHIN_S = {"web": 4.0, "worker": 8.0, "scheduler": 4.0}


@pytest.fixture
def crew(tmp_path: Path, client: "redis.Redis") -> Iterator[System]:
    """A system of this test alone, whose orders wait for a worker."""
    with System(tmp_path, env={"SWEEP_AFTER_MS": "2000"}) as system:
        yield system.start("web")


@pytest.fixture
def people() -> Iterator[ThreadPoolExecutor]:
    """Clients that ask at the same time."""
    with ThreadPoolExecutor(max_workers=64) as threads:
        yield threads


def poll(people: ThreadPoolExecutor, system: System, order_id: str, count: int) -> list["Future[Answer]"]:
    """So many long polls, each of them held by now."""
    held = [
        people.submit(system.get, f"/api/v1/orders/{order_id}", {"Prefer": "wait=30"}) for _ in range(count)
    ]
    wait_until(lambda: connections(system) >= count, what=f"{count} polls under way")
    return held


def connections(system: System) -> int:
    """Connections to the web process."""
    return sockets(system, "01")


def is_listening(system: System) -> bool:
    """Whether anybody takes new connections."""
    return sockets(system, "0A") > 0


def sockets(system: System, state: str) -> int:
    """Sockets of the web process's port in one of TCP's states, proc(5)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[1].endswith(f":{system.port:04X}") and line[3] == state for line in lines)


def stop(system: System, name: str) -> tuple[bool, float]:
    """Stop a part with SIGTERM; whether it ended by itself, and after how many seconds."""
    began = time.monotonic()
    return system.stop(name), time.monotonic() - began


def test_a_web_process_that_stops_answers_whoever_waits_for_a_result(
    crew: System, people: ThreadPoolExecutor
) -> None:
    order_id = crew.place((a_sku(), 1)).body["id"]
    waiting = poll(people, crew, order_id, 50)

    is_clean, took_s = stop(crew, "web")

    answers = [each.result() for each in waiting]
    assert {(answer.status, answer.body["status"]) for answer in answers} == {(200, "queued")}
    assert all(answer.headers["Retry-After"] for answer in answers)
    assert (is_clean, took_s < WITHIN_S["web"]) == (True, True)


def test_a_web_process_that_releases_nobody_would_keep_them_waiting(
    tmp_path: Path, people: ThreadPoolExecutor, client: "redis.Redis"
) -> None:
    with System(tmp_path, env={"UNGUARDED": "release"}, web_module="tests.unguarded_web") as crew:
        order_id = crew.start("web").place((a_sku(), 1)).body["id"]
        (waiting,) = poll(people, crew, order_id, 1)

        crew.tell("web", signal.SIGTERM)
        wait_until(lambda: not is_listening(crew), what="no new connections")

        assert not waiting.done()
        with pytest.raises(TimeoutError):
            waiting.result(timeout=2)
        crew.kill("web")
        assert isinstance(waiting.exception(), OSError)


def test_a_web_process_that_stops_finishes_requests_and_takes_no_new_ones(
    tmp_path: Path, people: ThreadPoolExecutor, client: "redis.Redis", redis_server: RedisServer
) -> None:
    key, sku = uuid.uuid4().hex, a_sku()
    # On a busy machine a process may need longer to hear of its end than a request else waits for Redis.
    with System(tmp_path, env={"UNGUARDED": "haste"}, web_module="tests.unguarded_web") as crew:
        crew.start("web").place((sku, 1))  # connects to both stores

        with frozen(redis_server.pid):
            placing = people.submit(crew.place, (sku, 1), key=key)
            wait_until(lambda: connections(crew), what="the request")
            stopping = people.submit(stop, crew, "web")
            wait_until(lambda: not is_listening(crew), what="no new connections")
            is_early = placing.done()
        answer = placing.result()

        assert (is_early, answer.status) == (False, 202)
        assert client.exists(keys.order(answer.body["id"]))
        with pytest.raises(OSError, match="refused"):
            crew.place((sku, 1), key=key)
        assert stopping.result()[0]


def test_whether_it_is_ready_depends_on_a_worker_that_lives(crew: System, client: "redis.Redis") -> None:
    before = crew.get("/readyz")
    crew.start("worker")
    with_worker = crew.get("/readyz")
    crew.stop("worker")
    after = crew.get("/readyz")

    assert [answer.status for answer in (before, with_worker, after)] == [503, 200, 503]
    assert {answer.body["detail"] for answer in (before, after)} == {"Missing: worker."}
    assert client.zcard(heartbeat.SEEN) == 1  # that it was there is remembered, and does not count


def test_while_it_stops_a_web_process_has_each_client_connect_elsewhere(crew: System) -> None:
    client = http.client.HTTPConnection("127.0.0.1", crew.port, timeout=5)
    stays = []

    for may_stay in (True, False):
        client.request("GET", "/api/v1/products", headers={"Authorization": f"Bearer {crew.api_key}"})
        with client.getresponse() as answer:
            answer.read()
            stays.append((answer.status, not answer.will_close))
        if may_stay:
            os.kill(crew.pids("web")[1], signal.SIGTERM)
    client.close()

    assert stays == [(200, True), (200, False)]


def test_a_second_sigterm_ends_a_web_process_without_that_time(crew: System) -> None:
    child = crew.pids("web")[1]
    began = time.monotonic()

    os.kill(child, signal.SIGTERM)
    wait_until(lambda: not is_running(child) or os.kill(child, signal.SIGTERM))

    assert time.monotonic() - began < DRAIN_S


def test_a_worker_that_stops_finishes_or_gives_back_what_it_has(crew: System) -> None:
    sku = a_sku(stock=500)
    ids = [crew.place((sku, 1)).body["id"] for _ in range(300)]
    crew.start("worker")
    wait_until(lambda: OrderRow.objects.filter(lines__sku=sku).exists())

    is_clean, took_s = stop(crew, "worker")
    in_hand = redis_client().hlen("unacked")
    began = time.monotonic()
    crew.start("worker")
    wait_until(lambda: Product.objects.get(sku=sku).confirmed == 300, what="the end of all orders")
    finished_s = time.monotonic() - began

    assert (is_clean, took_s < WITHIN_S["worker"], in_hand) == (True, True, 0)
    assert finished_s < 12  # none of them had to wait for the visibility timeout
    assert {crew.end_of(order_id).body["status"] for order_id in ids} == {"confirmed"}
    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS))
    assert_at_rest(redis_client())


def test_a_worker_whose_postgresql_hangs_ends_within_its_grace_also_when_told_twice(
    crew: System, postgres_server: PostgresServer
) -> None:
    sku = a_sku(stock=10)
    crew.start("worker")
    crew.end_of(crew.place((sku, 1)).body["id"])
    connection.close()

    with frozen(postgres_server.pid, *descendants(postgres_server.pid)):
        order_id = crew.place((sku, 1)).body["id"]
        wait_until(lambda: redis_client().exists(keys.lock(sku)), what="an order in the worker's hands")
        crew.tell("worker", signal.SIGTERM)
        is_clean, took_s = stop(crew, "worker")
    crew.start("worker", "scheduler")

    assert (is_clean, took_s < WITHIN_S["worker"]) == (True, True)
    assert crew.end_of(order_id).body["status"] == "confirmed"
    assert free_in_redis(redis_client(), sku) == 8


def test_the_scheduler_stops_at_once(crew: System) -> None:
    crew.start("scheduler")

    is_clean, took_s = stop(crew, "scheduler")

    assert (is_clean, took_s < WITHIN_S["scheduler"]) == (True, True)
