"""New orders stop before Redis is full, and what was accepted ends, also where Redis is full all the same."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from shop import intake, keys, pauses, redis_memory, storage_check
from shop.models import Order as OrderRow
from shop.pauses import Part
from shop.redis_memory import Memory
from tests.builders import a_sku, an_order, assert_at_rest, wait_until
from tests.refusals import full
from tests.running import Answer, System
from tests.test_permissions import allow
from tests.test_web_stores import in_a_web_process

#: What orders may take up to the limit. Some 200 of one line.
ROOM_BYTES = 300_000
#: A tenth of it is more than a second of one client's orders takes.
BALLAST_BYTES = 16_000_000


@pytest.fixture
def crew(tmp_path: Path, client: "redis.Redis") -> Iterator[System]:
    with System(tmp_path) as system:
        yield system


@contextmanager
def room_for_orders(client: "redis.Redis", percent: int) -> Iterator[None]:
    """A Redis of which this share is used when some hundred more orders were accepted."""
    client.setrange(
        "cache:ballast", BALLAST_BYTES, "x"
    )  # no command of that length, whose buffer would count too
    client.expire("cache:ballast", 300)
    client.config_set("maxmemory", (client.info("memory")["used_memory"] + ROOM_BYTES) * 100 // percent)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


class Filled(NamedTuple):
    """What was accepted until an order was refused; then the first one again, a look at it, and a cancellation."""

    ids: list[str]
    sku: str
    refused: Answer
    repeated: Answer
    shown: Answer
    cancelled: Answer


def filled(system: System) -> Filled:
    """Place orders, which wait, until one is refused."""
    sku, ids = a_sku(stock=100_000), list[str]()
    while (answer := system.place((sku, 1), key=f"order-{len(ids)}")).status == 202:
        ids.append(answer.body["id"])
        assert len(ids) < 5_000
    return Filled(
        ids=ids,
        sku=sku,
        refused=answer,
        repeated=system.place((sku, 1), key="order-0"),
        shown=system.get(f"/api/v1/orders/{ids[0]}"),
        cancelled=system.send("POST", f"/api/v1/orders/{ids[-1]}/cancel"),
    )


def test_new_orders_stop_at_the_watermark_and_all_that_was_accepted_ends(
    crew: System, client: "redis.Redis"
) -> None:
    crew.start(ENDED_ORDERS_KEPT_S="1")
    pauses.pause(client, Part.FULFILMENT, who="tests", reason="orders must wait")
    with room_for_orders(client, percent=90):
        found = filled(crew)
        memory = client.info("memory")
        pauses.resume(client, Part.FULFILMENT, who="tests", reason="")
        ends = {crew.end_of(order_id).body["status"] for order_id in found.ids[:-1]}
        resumed_key = f"order-{len(found.ids)}"
        wait_until(
            lambda: crew.place((found.sku, 1), key=resumed_key).status == 202, what="what ended orders leave"
        )
        wait_until(lambda: not client.zcard(keys.OPEN_ORDERS), what="the end of all orders")

    assert (found.refused.status, found.refused.body["type"]) == (503, "queue-full")
    assert int(found.refused.headers["Retry-After"]) >= 1
    assert (found.repeated.status, found.repeated.headers["Idempotency-Replayed"]) == (202, "true")
    assert (found.shown.status, found.cancelled.status) == (200, 202)
    assert memory["used_memory"] < memory["maxmemory"]
    assert ends == {"confirmed"}
    # Of those that were accepted one was cancelled, and the one that was refused came again.
    assert OrderRow.objects.filter(lines__sku=found.sku, status="confirmed").count() == len(found.ids)
    assert_at_rest(client)


def test_without_the_watermark_orders_take_the_room_of_all_else(crew: System, client: "redis.Redis") -> None:
    crew.env["UNGUARDED"], crew.web_module = "watermark", "tests.unguarded_web"
    crew.start("web")
    with room_for_orders(client, percent=100):
        found = filled(crew)

        def nothing_is_accepted() -> bool:
            """Redis gives back some buffers now and then: then an order is accepted, or a cancellation."""
            placed = crew.place((found.sku, 1))
            cancelled = crew.send("POST", f"/api/v1/orders/{found.ids[0]}/cancel")
            return (placed.status, cancelled.status) == (503, 503)

        wait_until(nothing_is_accepted, what="a Redis that takes no cancellation any more")
        with pytest.raises(redis.OutOfMemoryError):
            client.set(keys.SWEEPER_HEARTBEAT, "now", ex=1)

    assert found.refused.body["type"] == "unavailable"


def test_intake_resumes_with_the_first_order_after_memory_is_free(
    crew: System, client: "redis.Redis"
) -> None:
    crew.start("web")
    with full(client):
        wait_until(lambda: crew.place((a_sku(), 1)).body["type"] == "queue-full", what="a look at the memory")

    assert crew.place((a_sku(), 1)).status == 202


def test_a_full_redis_lets_workers_end_all_that_they_have_parked(crew: System, client: "redis.Redis") -> None:
    crew.start("web", "worker")
    sku = a_sku(stock=100)
    client.set(keys.lock(sku), "somebody", px=120_000)
    ids = [crew.place((sku, 1)).body["id"] for _ in range(20)]
    wait_until(lambda: client.hlen(keys.PARKED), what="a parked order")

    with full(client):
        client.delete(keys.lock(sku))
        ends = {crew.end_of(order_id).body["status"] for order_id in ids}
        wait_until(lambda: not client.zcard(keys.OPEN_ORDERS), what="the end of all orders")

    assert ends == {"confirmed"}
    assert_at_rest(client)


# --- the look -------------------------------------------------------------------------------------


def test_what_counts_is_maxmemory_or_where_there_is_none_the_memory_of_the_machine(
    client: "redis.Redis",
) -> None:
    machine = redis_memory.look(client)
    client.config_set("maxmemory", "1gb")
    try:
        own = redis_memory.look(client)
    finally:
        client.config_set("maxmemory", 0)

    assert machine is not None
    assert machine.limit_bytes == client.info("memory")["total_system_memory"]
    assert own is not None
    assert (own.limit_bytes, own.watermark_bytes) == (2**30, 2**30 * 90 // 100)


@pytest.mark.parametrize(
    ("used", "limit", "is_short"),
    [(89, 100, False), (90, 100, True), (101, 100, True), (10**12, None, False)],
)
def test_memory_is_short_from_the_watermark_on(used: int, limit: int | None, *, is_short: bool) -> None:
    assert Memory(used_bytes=used, limit_bytes=limit).is_short is is_short


def test_buffers_that_redis_does_not_count_do_not_count() -> None:
    reported = {"used_memory": "100", "mem_not_counted_for_evict": "30", "maxmemory": "0"}

    assert redis_memory._memory(reported) == Memory(used_bytes=70, limit_bytes=None)


def test_a_web_process_looks_once_a_second_however_many_orders_come(client: "redis.Redis") -> None:
    def looks() -> int:
        return int(client.info("commandstats").get("cmdstat_info", {}).get("calls", 0))

    async def story() -> float:
        clock = asyncio.get_running_loop().time
        began = clock()
        for _ in range(200):
            await intake.accept(an_order(("A", 1)), uuid.uuid4().hex, clock() + 10)
        return clock() - began

    before = looks()
    took_s = in_a_web_process(story)

    assert looks() - before - 1 <= took_s + 1  # one is this test's


def test_a_redis_that_allows_no_look_takes_orders_and_a_web_process_says_so_at_its_start(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = allow("blind", "~*", "&*", "+@all", "-info")["REDIS_URL"]
    blind: Any = redis.Redis.from_url(url, decode_responses=True)
    monkeypatch.setattr(storage_check, "redis_client", lambda: blind)

    assert redis_memory.look(blind) is None
    assert storage_check.warn_about_memory()
    assert "allows no INFO" in caplog.text
    blind.close()


def test_a_redis_whose_memory_is_known_is_not_mentioned(client: "redis.Redis") -> None:
    assert not storage_check.warn_about_memory()
