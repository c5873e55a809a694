"""What must wait is parked, in nobody's hands: it holds nothing up, and comes back when its waiting is over."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db import connection

from shop import keys, pauses, queue, system_state
from shop.domain import Order
from shop.fulfilment import fulfil
from shop.pauses import Part
from shop.stores import redis_client
from tests.builders import a_sku, accepted, an_order, assert_at_rest, row_held, status_in_books, wait_until
from tests.refusals import full
from tests.running import System
from tests.test_fulfilment import one_that_reserve_always_fails_over
from workers import transport
from workers.embedded import PostgresServer
from workers.transport import LONGEST_LOOK_MS, LOOKS, PARKED_FOR, SHORTEST_LOOK_MS

NOW_MS = 1_700_000_000_000
BATCH = 256


# --- the scripts ----------------------------------------------------------------------------------


def in_hand(client: "redis.Redis", *tags: str) -> None:
    """Messages that a worker has fetched from the queue of orders."""
    for tag in tags:
        client.hset("unacked", tag, json.dumps([{"tag": tag}, "", "orders"], separators=(",", ":")))
        client.zadd("unacked_index", {tag: 1})


def park(client: "redis.Redis", *parked: tuple[str, str, int, int], now_ms: int = NOW_MS) -> int:
    """Park messages: tag, what it waits for, since when, for how long."""
    names = ["unacked", "unacked_index", keys.PARKED, keys.PARKED_INDEX]
    args = [now_ms, *(part for each in parked for part in each)]
    count: int = transport._script("park")(names, args, client=client)
    return count


def unpark(client: "redis.Redis", *over: str, later_ms: int = 0, lot: float = 0) -> list[str]:
    """What comes back, the next one first; `over`: what need not be waited for any longer."""
    args = [NOW_MS + later_ms, BATCH, LOOKS, SHORTEST_LOOK_MS, LONGEST_LOOK_MS, lot, *over]
    transport._script("unpark")([keys.PARKED, keys.PARKED_INDEX], args, client=client)
    back = client.rpop("orders", 10_000) or []
    return [json.loads(message)["tag"] for message in back]


def next_look_ms(client: "redis.Redis", awaited: str) -> float:
    """When somebody looks whether that is over."""
    return float(client.zscore(keys.PARKED_INDEX, awaited)) - NOW_MS


def test_a_parked_message_is_in_nobody_s_hands_and_comes_back_as_it_was(client: "redis.Redis") -> None:
    in_hand(client, "a")

    assert park(client, ("a", "lamp", 5, 100)) == 1

    assert (client.hlen("unacked"), client.zcard("unacked_index"), client.hlen(keys.PARKED)) == (0, 0, 1)
    assert unpark(client, later_ms=99) == []
    assert unpark(client, later_ms=100) == ["a"]
    assert list(client.scan_iter("parked*")) == []


def test_a_full_redis_parks_what_is_in_hand_and_brings_it_back(client: "redis.Redis") -> None:
    in_hand(client, "a")

    with full(client):
        try:
            brought = (park(client, ("a", "lamp", 5, 100)), unpark(client, later_ms=100))
        except redis.ResponseError as refusal:
            raise AssertionError(str(refusal)) from refusal

    assert brought == (1, ["a"])


def test_what_is_acknowledged_or_restored_already_is_not_parked(client: "redis.Redis") -> None:
    assert park(client, ("a", "lamp", 5, 100)) == 0
    assert list(client.scan_iter("parked*")) == []


def test_one_message_looks_for_all_that_wait_for_the_same_and_the_oldest_comes_first(
    client: "redis.Redis",
) -> None:
    in_hand(client, "younger", "older", "other")
    park(client, ("younger", "lamp", 6, 100), ("older", "lamp", 5, 100), ("other", "desk", 9, 100))

    assert sorted(unpark(client, later_ms=100)) == ["older", "other"]
    assert unpark(client, later_ms=101) == []
    assert unpark(client, later_ms=100 + LONGEST_LOOK_MS) == ["younger"]


def test_which_one_looks_is_drawn_by_lot(client: "redis.Redis") -> None:
    """The oldest may wait in vain for what all others would get."""
    in_hand(client, "a", "b", "c")
    park(client, *((tag, "lamp", at, 100) for at, tag in enumerate("abc")))

    assert unpark(client, later_ms=100, lot=0.99) == ["c"]
    assert unpark(client, later_ms=100 + LONGEST_LOOK_MS, lot=0.5) == ["b"]


def test_who_comes_later_does_not_hasten_the_next_look(client: "redis.Redis") -> None:
    in_hand(client, "a", "b")
    park(client, ("a", "lamp", 5, 500), ("b", "lamp", 6, 20))

    assert unpark(client, later_ms=499) == []
    assert unpark(client, later_ms=500) == ["a"]


def test_looks_become_rare_as_the_waiting_becomes_long(client: "redis.Redis") -> None:
    waits_ms = {"new": 10, "old": 2_000, "very old": 100_000}
    for awaited, waited_ms in waits_ms.items():
        in_hand(client, f"first {awaited}", f"second {awaited}")
        park(
            client,
            *((f"{n} {awaited}", awaited, NOW_MS - waited_ms, -1) for n in ("first", "second")),
        )

    unpark(client)

    assert [next_look_ms(client, awaited) for awaited in waits_ms] == [
        SHORTEST_LOOK_MS,
        200,
        LONGEST_LOOK_MS,
    ]


def test_what_is_known_to_be_over_brings_back_as_many_as_a_batch_takes(client: "redis.Redis") -> None:
    tags = [f"{number:03}" for number in range(BATCH + 44)]
    in_hand(client, *tags)
    park(client, *((tag, "lamp", int(tag), 60_000) for tag in tags))
    client.zadd(keys.PARKED_INDEX, {"lamp": 0}, xx=True)

    assert unpark(client) == tags[:BATCH]
    assert client.hlen(keys.PARKED) == 44


def test_where_one_gets_through_a_batch_of_the_others_comes_back(client: "redis.Redis") -> None:
    tags = [f"{number:03}" for number in range(BATCH + 44)]
    in_hand(client, *tags, "else")
    park(client, *((tag, "a task", int(tag), 60_000) for tag in tags), ("else", "another task", 5, 60_000))

    assert unpark(client, "a task", "what nobody waits for") == tags[:BATCH]
    assert unpark(client, "a task") == tags[BATCH:]
    assert client.hkeys(keys.PARKED) == ["else"]


def test_a_message_that_nothing_brings_back_is_not_called_parked(client: "redis.Redis") -> None:
    """Somebody has deleted what it waits for: the sweeper must not believe that it comes back."""
    in_hand(client, "a")
    park(client, ("a", "lamp", 5, 100))
    client.delete(keys.PARKED_INDEX)

    assert unpark(client, later_ms=100) == []
    assert client.hlen(keys.PARKED) == 0


def test_who_waits_for_a_key_that_is_gone_comes_back_at_once(client: "redis.Redis") -> None:
    """The lock may be released between the look at it and the parking: nobody would tell."""
    in_hand(client, "early", "late")
    client.set(keys.lock("lamp"), "somebody")

    park(client, ("early", keys.lock("lamp"), 5, 0))
    assert unpark(client) == []
    client.delete(keys.lock("lamp"))
    park(client, ("late", keys.lock("lamp"), 6, 0))

    assert unpark(client) == ["early", "late"]


def test_a_copy_takes_the_place_of_the_parked_message(client: "redis.Redis") -> None:
    for _ in range(2):
        in_hand(client, "a")
        park(client, ("a", "lamp", 5, 100))

    assert unpark(client, later_ms=100) == ["a"]
    assert unpark(client, later_ms=10_000) == []


@pytest.mark.parametrize("name", [PARKED_FOR + "lamp", keys.PARKED, keys.PARKED_INDEX, "unacked_index"])
def test_a_key_that_somebody_has_broken_leaves_all_in_hand(client: "redis.Redis", name: str) -> None:
    in_hand(client, "a")
    client.delete(name)
    client.set(name, "something else")

    with pytest.raises(redis.ResponseError):
        park(client, ("a", "lamp", 5, 100))

    assert client.hkeys("unacked") == ["a"]
    assert set(client.keys()) == {"unacked", "unacked_index", name}


# --- who releases a lock ---------------------------------------------------------------------------


def test_an_order_that_ends_makes_way_for_those_parked_for_its_locks(client: "redis.Redis") -> None:
    sku, other = a_sku(stock=10), a_sku(stock=10)
    in_hand(client, "a", "b")
    park(client, ("a", keys.lock(sku), 5, 60_000), ("b", keys.lock(other), 5, 60_000))

    fulfil(accepted(client, an_order((sku, 1))), client=client)

    assert unpark(client) == ["a"]


def test_an_order_that_must_wait_itself_wakes_nobody(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    in_hand(client, "a")
    park(client, ("a", keys.lock(sku), 5, 60_000))

    with row_held(sku):
        fulfil(accepted(client, an_order((sku, 1))), client=client)

    assert client.get(keys.lock(sku)) is None
    assert unpark(client) == []


# --- a whole system -------------------------------------------------------------------------------

Trouble = Callable[[str], AbstractContextManager[object]]


@contextmanager
def lock_taken(sku: str) -> Iterator[None]:
    """Somebody has taken the lock of a SKU, and keeps it."""
    redis_client().set(keys.lock(sku), "somebody else", px=60_000)
    try:
        yield
    finally:
        redis_client().delete(keys.lock(sku))


@pytest.fixture
def crew(tmp_path: Path, client: "redis.Redis") -> Iterator[System]:
    """Worker and scheduler of this test alone; the sweeper looks after orders sooner than by default."""
    with System(tmp_path, env={"SWEEP_AFTER_MS": "3000"}) as system:
        yield system.start("worker", "scheduler")


def placed(client: "redis.Redis", sku: str, count: int) -> list[Order]:
    """Orders that were accepted and enqueued."""
    orders = accepted(client, *(an_order((sku, 1)) for _ in range(count)))
    client.lpush(keys.ORDER_QUEUE, *map(queue.fulfil_message, orders))
    return orders


def slowest_s(client: "redis.Redis", sku: str, count: int) -> float:
    """Place orders one after the other; how long the slowest took to its end."""
    took_s = []
    for _ in range(count):
        began = time.monotonic()
        (order,) = placed(client, sku, 1)
        wait_until(lambda order=order: status_in_books(order) == "confirmed", what="the end of a good order")
        took_s.append(time.monotonic() - began)
    return max(took_s)


def have_ended(orders: Sequence[Order]) -> Callable[[], bool]:
    """Whether none of them is open."""
    return lambda: not any(redis_client().zmscore(keys.OPEN_ORDERS, [order.id for order in orders]))


@pytest.mark.parametrize("trouble", [lock_taken, row_held])
def test_a_thousand_orders_of_a_sku_that_is_not_to_be_had_delay_no_other(
    crew: System, client: "redis.Redis", trouble: Trouble
) -> None:
    hot, cold = a_sku(stock=2_000), a_sku(stock=100)

    with trouble(hot):
        waiting = placed(client, hot, 1_500)
        slowest_at_first_s = slowest_s(client, cold, 10)
        wait_until(lambda: client.hlen(keys.PARKED) > 1_400, what="all of them parked")
        crew.kill("worker")
        crew.start("worker")
        slowest_after_a_death_s = slowest_s(client, cold, 20)
        messages = client.llen(keys.ORDER_QUEUE) + client.hlen("unacked") + client.hlen(keys.PARKED)

    assert slowest_at_first_s < 2
    assert slowest_after_a_death_s < 2
    assert messages < 2 * len(waiting)
    wait_until(have_ended(waiting), timeout_s=30, what="the end of those that waited")
    assert {status_in_books(order) for order in waiting[::100]} == {"confirmed"}
    wait_until(lambda: not client.hlen(keys.PARKED) and not client.hlen("unacked"), what="rest")
    assert_at_rest(client)


def test_orders_that_a_dead_worker_had_and_that_meet_a_lock_occupy_no_process(
    crew: System, client: "redis.Redis"
) -> None:
    """They come again marked as redelivered, so that each goes alone."""
    hot, cold = a_sku(stock=100), a_sku(stock=100)
    orders = accepted(client, *(an_order((hot, 1)) for _ in range(30)))
    messages: list[dict[str, Any]] = [json.loads(queue.fulfil_message(order)) for order in orders]
    for message in messages:
        message["headers"]["redelivered"] = True

    with lock_taken(hot):
        client.lpush(keys.ORDER_QUEUE, *map(json.dumps, messages))
        wait_until(lambda: client.hlen(keys.PARKED) == 30, what="all of them parked")
        took_s = slowest_s(client, cold, 5)

    assert took_s < 2
    wait_until(have_ended(orders), what="the end of those that waited")


@contextmanager
def no_postgresql(postgres_server: PostgresServer) -> Iterator[None]:
    """PostgreSQL is stopped meanwhile."""
    postgres_server.stop()
    try:
        yield
    finally:
        postgres_server.start()
        connection.close()  # this test's own, which broke with the server


@contextmanager
def a_pause() -> Iterator[None]:
    """Fulfilment is paused meanwhile."""
    pauses.pause(redis_client(), Part.FULFILMENT, who="tests", reason="a test")
    try:
        yield
    finally:
        pauses.resume(redis_client(), Part.FULFILMENT, who="tests")


@pytest.mark.parametrize("reason", ["PostgreSQL is stopped", "fulfilment is paused"])
def test_orders_that_nothing_can_be_done_for_are_parked_and_end_soon_after(
    crew: System, client: "redis.Redis", postgres_server: PostgresServer, reason: str
) -> None:
    """Each tenth was in the hands of a worker that died, and goes alone."""
    sku = a_sku(stock=2_000)
    orders = accepted(client, *(an_order((sku, 1)) for _ in range(1_000)))
    messages: list[dict[str, Any]] = [json.loads(queue.fulfil_message(order)) for order in orders]
    for message in messages[::10]:
        message["headers"]["redelivered"] = True

    with no_postgresql(postgres_server) if reason == "PostgreSQL is stopped" else a_pause():
        client.lpush(keys.ORDER_QUEUE, *map(json.dumps, messages))
        wait_until(lambda: client.hlen(keys.PARKED) > 990, what="all of them parked")
        crew.kill("worker")
        crew.start("worker")
        wait_until(lambda: not client.hlen("unacked"), what="nothing in hand")
        wait_until(lambda: client.hlen(keys.PARKED) > 990, what="all of them parked again")
        attempts = Counter(client.hget(keys.order(order.id), "attempts") for order in orders)
        oldest_s = system_state.look(client).oldest_s

    # One attempt counts of those that the worker had in hand when it was killed: less than ten were not parked then.
    assert attempts.keys() <= {None, "0", "1"}
    assert attempts["1"] < 10
    assert oldest_s is not None
    assert oldest_s > 1
    wait_until(have_ended(orders), timeout_s=10, what="the end of those that waited")
    assert {status_in_books(order) for order in orders[::50]} == {"confirmed"}
    wait_until(lambda: not client.hlen(keys.PARKED) and not client.hlen("unacked"), what="rest")
    assert_at_rest(client)


def test_an_order_whose_reserving_always_fails_ends_and_its_neighbours_go_on(
    tmp_path: Path, client: "redis.Redis"
) -> None:
    sku = a_sku(stock=100)
    poisoned, *good = accepted(
        client, one_that_reserve_always_fails_over(), *(an_order((sku, 1)) for _ in range(20))
    )
    client.lpush(keys.ORDER_QUEUE, *map(queue.fulfil_message, [*good[:10], poisoned, *good[10:]]))

    with System(tmp_path, env={"MAX_ATTEMPTS": "2"}) as system:
        system.start("worker")
        wait_until(have_ended(good), timeout_s=10, what="the end of its neighbours")
        wait_until(have_ended([poisoned]), timeout_s=20, what="its end")

    assert {status_in_books(order) for order in good} == {"confirmed"}
    assert status_in_books(poisoned) == "failed"
    assert_at_rest(client)


def test_orders_whose_park_is_lost_are_enqueued_again(crew: System, client: "redis.Redis") -> None:
    sku = a_sku(stock=100)

    with lock_taken(sku):
        orders = placed(client, sku, 20)
        wait_until(lambda: client.hlen(keys.PARKED) >= 19, what="all of them parked")
        client.delete(*client.scan_iter("parked*"))

    wait_until(have_ended(orders), what="the end of those that waited")
