"""Pausing: no new orders, or none worked on, for as long as somebody says; nothing is lost, and it goes on at once."""

import time
import uuid
from collections.abc import Iterator

import pytest
import redis
from django.core.management import CommandError, call_command

from shop import fulfilment, intake, keys, pauses, sweeper
from shop.models import PauseChange
from shop.pauses import Part
from shop.stores import redis_client
from tests import test_lua
from tests.builders import a_sku, accepted, an_order, assert_at_rest, free_in_redis, wait_until
from tests.running import System
from tests.test_lua import QUEUE
from tests.test_metrics import told, value
from workers.embedded import PostgresServer


def pause(client: "redis.Redis", part: Part, reason: str = "stocktaking") -> bool:
    return pauses.pause(client, part, who="Ada", reason=reason)


def accept(client: "redis.Redis", key: str) -> list[str]:
    """Accept one order under a key, which is its id, too."""
    reply: list[str] = test_lua.accept(client, order=key, key=key)
    return reply


def attempts(client: "redis.Redis", order_id: str) -> str | None:
    return client.hget(keys.order(order_id), "attempts")


# --- what a pause means in the stores --------------------------------------------------------------


def test_a_paused_intake_takes_nothing_new_and_leaves_the_key_unused(client: "redis.Redis") -> None:
    accept(client, "before")
    pause(client, Part.INTAKE)

    assert accept(client, "new") == ["paused"]
    assert accept(client, "before") == ["replayed", "before"]
    assert client.exists(keys.idempotency("shop", "new"), keys.order("new")) == 0
    assert client.llen(QUEUE) == 1

    pauses.resume(client, Part.INTAKE, who="Ada")
    assert accept(client, "new") == ["accepted"]


def test_a_paused_fulfilment_takes_no_unit_and_counts_no_attempt(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    (before, order) = accepted(client, an_order((sku, 1)), an_order((sku, 8)))
    fulfilment.fulfil([before], client=client)
    pause(client, Part.FULFILMENT)

    for _ in range(fulfilment.Rules().max_attempts + 1):
        with pytest.raises(fulfilment.Paused):
            fulfilment.fulfil([order], client=client)

    assert (attempts(client, order.id), free_in_redis(client, sku)) == (None, 9)
    assert client.exists(keys.lock(sku)) == 0
    pauses.resume(client, Part.FULFILMENT, who="Ada")
    assert list(fulfilment.fulfil([order], client=client).values()) == ["confirmed"]
    assert_at_rest(client)


def test_the_sweeper_enqueues_nothing_while_fulfilment_is_paused(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(), 1)))
    client.zadd(keys.OPEN_ORDERS, {order.id: 1})
    pause(client, Part.FULFILMENT)

    assert sweeper.enqueue_due(client, int(time.time() * 1000)) == 0
    pauses.resume(client, Part.FULFILMENT, who="Ada")
    assert sweeper.enqueue_due(client, int(time.time() * 1000)) == 1


def test_a_pause_says_who_and_why_and_each_change_is_kept(client: "redis.Redis") -> None:
    reason = f"stocktaking {uuid.uuid4().hex[:6]}"

    assert pause(client, Part.INTAKE, reason)
    assert not pause(client, Part.INTAKE, "again")
    holds = pauses.current(client)
    assert pauses.resume(client, Part.INTAKE, who="Grace", reason=reason)
    assert not pauses.resume(client, Part.INTAKE, who="Grace")

    assert {part: (held.who, held.reason) for part, held in holds.items()} == {Part.INTAKE: ("Ada", reason)}
    assert abs(holds[Part.INTAKE].since_ms - time.time() * 1000) < 60_000
    assert pauses.current(client) == {}
    kept = PauseChange.objects.filter(reason=reason).values_list("part", "is_paused", "who")
    assert list(kept) == [("intake", False, "Grace"), ("intake", True, "Ada")]


def test_a_pause_that_was_set_by_hand_holds_and_is_told(client: "redis.Redis") -> None:
    client.set(keys.pause(Part.INTAKE), "somebody's word")

    assert accept(client, "new") == ["paused"]
    assert pauses.current(client)[Part.INTAKE].reason == "somebody's word"


# --- the operator's verbs --------------------------------------------------------------------------


def test_the_command_pauses_and_resumes(client: "redis.Redis", capsys: pytest.CaptureFixture[str]) -> None:
    call_command("pause", "fulfilment", "--reason", "the disk is full")
    with pytest.raises(CommandError, match=r"paused already, by .* the disk is full"):
        call_command("pause", "fulfilment", "--reason", "again")
    held = pauses.current(client)[Part.FULFILMENT]
    call_command("resume")
    call_command("resume")

    assert (held.reason, "(command line)" in held.who) == ("the disk is full", True)
    assert capsys.readouterr().out.splitlines() == [
        "fulfilment is paused; `manage.py resume fulfilment` ends that.",
        "fulfilment goes on.",
        "Nothing was paused.",
    ]


@pytest.mark.parametrize(
    "arguments", [["intake"], ["everything", "--reason", "x"], ["intake", "--reason", " "]]
)
def test_the_command_wants_a_part_and_a_reason(client: "redis.Redis", arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("pause", *arguments)
    assert pauses.current(client) == {}


def test_a_pause_does_not_need_postgresql(
    client: "redis.Redis", postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    postgres_server.stop()
    try:
        call_command("pause", "intake", "--reason", "PostgreSQL is away")
    finally:
        postgres_server.start()

    assert list(pauses.current(client)) == [Part.INTAKE]
    assert "intake is paused" in capsys.readouterr().out


# --- the running system ----------------------------------------------------------------------------


@pytest.fixture
def resumed(system: System) -> Iterator[System]:
    """The system, with no pause left when the test is over."""
    yield system
    for part in Part:
        pauses.resume(redis_client(), part, who="tests")


def test_while_intake_is_paused_new_orders_hear_so_and_all_else_works(resumed: System) -> None:
    sku, key, later = a_sku(stock=10), uuid.uuid4().hex, uuid.uuid4().hex
    placed = resumed.place((sku, 1), key=key).body["id"]
    pause(redis_client(), Part.INTAKE)

    refused = resumed.place((sku, 1), key=later)
    again = resumed.place((sku, 1), key=key)

    assert (refused.status, refused.body["type"]) == (503, "intake-paused")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert int(refused.headers["Retry-After"]) > 0
    assert (again.status, again.body["id"]) == (202, placed)
    assert resumed.end_of(placed).body["status"] == "confirmed"
    assert resumed.send("POST", f"/api/v1/orders/{placed}/cancel").status == 202
    assert value(told(resumed), "reserva_paused", part="intake") == 1

    resumed.stop("web")
    resumed.start("web")
    assert resumed.place((sku, 1), key=later).status == 503

    pauses.resume(redis_client(), Part.INTAKE, who="Ada")
    taken = resumed.place((sku, 1), key=later)
    assert taken.status == 202
    assert "Idempotency-Replayed" not in taken.headers
    assert value(told(resumed), "reserva_paused", part="intake") == 0


def test_while_fulfilment_is_paused_orders_stay_queued_and_then_go_on_at_once(resumed: System) -> None:
    client, sku = redis_client(), a_sku(stock=1_000)
    resumed.end_of(resumed.place((sku, 1)).body["id"])
    pause(client, Part.FULFILMENT)

    placed = [resumed.place((sku, 1)).body["id"] for _ in range(300)]
    held = resumed.get(f"/api/v1/orders/{placed[0]}", {"Prefer": "wait=4"}).body["status"]
    resumed.stop("worker")
    resumed.start("worker")
    held_by_another = resumed.get(f"/api/v1/orders/{placed[-1]}", {"Prefer": "wait=3"}).body["status"]

    assert (held, held_by_another) == ("queued", "queued")
    assert {attempts(client, order_id) for order_id in placed} == {None}
    assert client.zcard(keys.OPEN_ORDERS) == len(placed)

    pauses.resume(client, Part.FULFILMENT, who="Ada")
    began = time.monotonic()
    first = resumed.end_of(placed[0]).body["status"]
    took_s = time.monotonic() - began
    assert {resumed.end_of(order_id).body["status"] for order_id in placed} == {first} == {"confirmed"}
    assert took_s < 2
    assert {attempts(client, order_id) for order_id in placed} == {"1"}
    wait_until(lambda: not client.zcard(keys.OPEN_ORDERS))
    assert_at_rest(client)


def test_an_order_that_goes_alone_waits_for_the_end_of_a_pause_too(resumed: System) -> None:
    client, sku = redis_client(), a_sku(stock=10)
    order = an_order((sku, 1), client="shop")
    accepted(client, order)
    pause(client, Part.FULFILMENT)

    from tasks.orders import fulfil_order

    fulfil_order.apply_async((intake.msgspec.to_builtins(order),), task_id=order.id, retries=1)
    time_out = time.monotonic() + 3
    wait_until(lambda: time.monotonic() > time_out or attempts(client, order.id))
    assert attempts(client, order.id) is None

    pauses.resume(client, Part.FULFILMENT, who="Ada")
    wait_until(lambda: client.hget(keys.order(order.id), "status") == "confirmed", timeout_s=10)
    assert attempts(client, order.id) == "1"
