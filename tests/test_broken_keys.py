"""Somebody has put something else under a key of ours: the store is unwell, says so, and is well again with the key."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User

from shop import figures, fulfilment, keys, pauses, reconciliation, stock, stores, sweeper, system_state
from shop.domain import Status
from shop.fulfilment import Held, Rules, cancel, fulfil
from shop.stores import BrokenKey, redis_client
from tests.builders import (
    a_sku,
    accepted,
    an_order,
    assert_at_rest,
    free_in_redis,
    status_in_redis,
    wait_until,
)
from tests.running import System, frozen
from tests.test_board import PASSWORD, Person
from workers import heartbeat

#: Keys of one name that the system itself reads, by their types.
SHARED = {spec.pattern: spec.type for spec in keys.SPECS if "*" not in spec.pattern}
#: Without these no order comes to its end.
NEEDED = (
    keys.ORDER_QUEUE,
    keys.MAINTENANCE_QUEUE,
    keys.OPEN_ORDERS,
    keys.CANCELLATIONS,
    "unacked",
    "unacked_index",
)
#: Keys that say how a system is, of which no order has need.
HOUSEKEEPING = [*sorted(set(SHARED) - set(NEEDED)), keys.SWEEPER_HEARTBEAT]
BREAK = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('RENAME', KEYS[1], KEYS[2]) end
redis.call(ARGV[1], KEYS[1], 'something else')
"""
MEND = """
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[1]) end
"""
TRIED_ONCE = Rules(max_attempts=1)


@contextmanager
def broken(name: str) -> Iterator[None]:
    """While it lasts, a key is of another type; then it has again what it had."""
    client, kept = redis_client(), f"kept:{uuid.uuid4().hex}"
    stores._broken_keys.cache_clear()
    client.eval(BREAK, 2, name, kept, "LPUSH" if SHARED.get(name) == "string" else "SET")
    try:
        yield
    finally:
        client.eval(MEND, 2, name, kept)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system of which an order that is begun twice in vain has failed, and which looks after orders soon."""
    redis_client().flushdb()
    env = {"MAX_ATTEMPTS": "1", "SWEEP_AFTER_MS": "2000"}
    with System(tmp_path_factory.mktemp("system"), env=env) as running:
        yield running.start()
        assert "unexpected error" not in running.log("web")
        assert "fulfilment failed" not in running.log("worker")


@pytest.fixture(scope="module")
def boss(shop: System) -> Person:
    """One of the staff, who looks at the board."""
    User.objects.create_user(f"boss-{uuid.uuid4().hex[:6]}", password=PASSWORD, is_staff=True)
    return Person(shop).sign_in(User.objects.latest("id").username)


def told_by_board(boss: Person) -> tuple[int, str]:
    """The board's status, and its page."""
    with boss.open("/live") as page:
        return page.status, page.read().decode()


# --- the whole system -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARED)
def test_a_broken_key_is_told_of_as_a_store_that_is_unwell_and_costs_no_order_anything(
    shop: System, boss: Person, name: str
) -> None:
    sku, key = a_sku(stock=100), uuid.uuid4().hex
    first = shop.place((sku, 1)).body["id"]
    shop.end_of(first)
    with ExitStack() as stopped:
        stopped.enter_context(frozen(*shop.pids("worker")))
        waiting = [shop.place((sku, 1)).body["id"] for _ in range(20)]
        told_before = shop.log("worker").count(name)
        with broken(name):
            answers = [shop.place((sku, 1), key=key), shop.get("/metrics"), shop.get("/readyz")]
            answers += [shop.get(f"/api/v1/orders/{order_id}") for order_id in (first, waiting[0])]
            with boss.open("/live") as page, boss.open("/live/figures") as figures:
                boards = {page.status, figures.status}
            stopped.close()
            if name in NEEDED:
                wait_until(
                    lambda: shop.log("worker").count(name) > told_before + 2, what="some tries in vain"
                )
            else:
                assert {shop.end_of(order_id).body["status"] for order_id in waiting} == {"confirmed"}

    assert {answer.status for answer in answers} <= {200, 202, 503}
    assert boards <= {200, 503}
    again = shop.place((sku, 1), key=key)
    assert again.status == 202
    ends = {shop.end_of(order_id).body["status"] for order_id in [*waiting, again.body["id"]]}
    assert ends == {"confirmed"}
    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="every order to be settled")
    assert free_in_redis(redis_client(), sku) == 78
    wait_until(lambda: not redis_client().hlen("unacked"), what="the last acknowledgement")
    assert_at_rest(redis_client())


def test_a_queue_that_is_no_list_is_named_to_whoever_can_mend_it(shop: System, boss: Person) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    words = f"`{keys.ORDER_QUEUE}` is a string and must be a list"
    with broken(keys.ORDER_QUEUE):
        refused, ready = shop.place((sku, 1), key=key), shop.get("/readyz")
        scraped = shop.get("/metrics")

        def board() -> tuple[int, bool]:
            with boss.open("/live") as page:
                return page.status, words in page.read().decode()

        wait_until(lambda: board() == (503, True), timeout_s=5, what="the board to say so")
        wait_until(lambda: "no messages are fetched" in shop.log("worker"), what="the worker to say so")
        in_line = redis_client().zcard(keys.OPEN_ORDERS)

    assert (refused.status, refused.body["type"]) == (503, "unavailable")
    assert refused.headers["Retry-After"]
    assert (ready.status, ready.body["detail"]) == (503, "Missing: Redis.")
    assert "reserva_redis_up 0.0" in scraped.body
    assert words in shop.log("web")
    assert "Traceback" not in shop.log("web")
    assert in_line == 0, "nothing of a refused order is left behind"
    assert shop.end_of(shop.place((sku, 1), key=key).body["id"]).body["status"] == "confirmed"


def test_broken_keys_of_housekeeping_are_unknown_and_no_store_is_missing(shop: System, boss: Person) -> None:
    client = redis_client()
    shop.end_of(shop.place((a_sku(stock=10), 1)).body["id"])
    wait_until(lambda: client.exists(keys.FIGURES), what="figures")
    (worker,) = client.zrange(heartbeat.SEEN, 0, -1)
    second = int(client.time()[0])
    soon = [keys.figures_of_second(at) for at in range(second - 3, second + 30)]
    rankings = [keys.ranking(name, second // 60) for name in figures.RANKINGS]
    with ExitStack() as until_mended:
        for name in (*HOUSEKEEPING, heartbeat.key(worker), *soon, *rankings):
            until_mended.enter_context(broken(name))
        ready, scraped = shop.get("/readyz"), shop.get("/metrics")
        with boss.open("/live/figures") as told:
            board = told.status
        wait_until(lambda: shop.get("/readyz").status == 200, what="the next heartbeat")
        wait_until(lambda: client.type(heartbeat.SEEN) == "zset", what="the key of workers to be well again")
        shop.end_of(shop.place((a_sku(stock=10), 1)).body["id"])
        wait_until(lambda: client.type(keys.FIGURES) == "hash", what="figures that are counted again")

    assert (ready.status, ready.body.get("detail")) in {(503, "Unknown: worker."), (200, None)}
    assert "reserva_redis_up 1.0" in scraped.body
    assert board == 200
    assert "reserva_workers 0.0" not in scraped.body


def test_an_order_whose_own_key_is_broken_waits_for_it_and_its_neighbours_do_not(shop: System) -> None:
    sku = a_sku(stock=10)
    with ExitStack() as stopped:
        stopped.enter_context(frozen(*shop.pids("worker")))
        before, own, after = (shop.place((sku, 1)).body["id"] for _ in range(3))
        with broken(keys.order(own)):
            stopped.close()
            ends = [shop.end_of(order_id).body["status"] for order_id in (before, after)]
            asked = shop.get(f"/api/v1/orders/{own}")
            tries = shop.log("worker").count(own)
            wait_until(lambda: redis_client().hlen("unacked") or shop.log("worker").count(own) > tries)

    assert ends == ["confirmed", "confirmed"]
    assert (asked.status, asked.body["type"]) == (503, "unavailable")
    assert shop.end_of(own).body["status"] == "confirmed"
    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="every order to be settled")
    assert_at_rest(redis_client())


# --- one worker -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [keys.OPEN_ORDERS, keys.CANCELLATIONS])
def test_a_broken_key_costs_no_order_of_a_batch_an_attempt(client: "redis.Redis", name: str) -> None:
    sku = a_sku(stock=10)
    stock.refresh(client, [sku])
    orders = accepted(client, *(an_order((sku, units)) for units in (1, 20, 2)))
    soon_over = [key for order in orders for key in (keys.last_attempt(order.id), keys.lock(sku))]
    with broken(name):
        for _ in range(3):
            client.delete(*soon_over)  # as time does
            with pytest.raises(BrokenKey, match=f"`{name}` is a string"):
                fulfil(orders, client=client, rules=TRIED_ONCE)
    assert list(client.scan_iter(match=keys.lock("*"))) == []

    outcomes = fulfil(orders, client=client, rules=TRIED_ONCE)

    assert list(outcomes.values()) == [Status.CONFIRMED, Status.REJECTED, Status.CONFIRMED]
    assert free_in_redis(client, sku) == 7
    assert_at_rest(client)


def test_without_taking_it_for_an_unwell_store_a_broken_key_makes_orders_fail(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_WRONG_TYPE", stores._NOT_NOW)
    (order,) = accepted(client, an_order((a_sku(stock=10), 1)))
    with broken(keys.CANCELLATIONS), pytest.raises(redis.ResponseError):
        fulfil([order], client=client, rules=TRIED_ONCE)

    assert client.hget(keys.order(order.id), "attempts") == "1"


@pytest.mark.parametrize("moment", ["before it is reserved", "while it is decided"])
def test_an_order_with_a_broken_record_is_held_and_no_other(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    sku = a_sku(stock=10)
    orders = accepted(client, *(an_order((sku, 1)) for _ in range(3)))
    with ExitStack() as until_mended:
        breaking = broken(keys.order(orders[1].id))
        if moment == "before it is reserved":
            until_mended.enter_context(breaking)
        else:
            decide = fulfilment.books.decide

            def breaking_meanwhile(questions: Any, **_: object) -> Any:
                monkeypatch.undo()
                until_mended.enter_context(breaking)
                return decide(questions)

            monkeypatch.setattr(fulfilment.books, "decide", breaking_meanwhile)
        outcomes = fulfil(orders, client=client)
        again = fulfil([orders[1]], client=client)

    assert [outcomes[orders[0].id], outcomes[orders[2].id]] == [Status.CONFIRMED] * 2
    for held in (outcomes[orders[1].id], again[orders[1].id]):
        assert isinstance(held, Held)
        assert keys.order(orders[1].id) in str(held.by)
    assert fulfil([orders[1]], client=client) == {orders[1].id: Status.CONFIRMED}
    assert free_in_redis(client, sku) == 7
    assert_at_rest(client)


@pytest.mark.parametrize("key_of", [keys.stock, keys.version, keys.lock], ids=["counter", "version", "lock"])
def test_what_is_no_counter_version_or_lock_is_as_good_as_none(client: "redis.Redis", key_of: Any) -> None:
    sku = a_sku(stock=10)
    confirmed, late = accepted(client, an_order((sku, 2)), an_order((sku, 3)))
    fulfil([confirmed], client=client)
    client.delete(key_of(sku))
    client.lpush(key_of(sku), "something else")

    assert cancel(confirmed.id, client=client) is Status.CANCELLED
    assert fulfil([late], client=client, rules=TRIED_ONCE) == {late.id: Status.CONFIRMED}
    assert free_in_redis(client, sku) == 7
    assert_at_rest(client)


def test_of_a_record_without_sense_the_books_tell_and_it_hurts_nobody_else(shop: System) -> None:
    client = redis_client()
    sku = a_sku(stock=100)
    ended, neighbour = (shop.place((sku, 1)).body["id"] for _ in range(2))
    for order_id in (ended, neighbour):
        shop.end_of(order_id)
    with frozen(*shop.pids("worker")):
        waiting = shop.place((sku, 1)).body["id"]
        document = client.hget(keys.order(waiting), "document")
        for order_id in (ended, waiting):
            client.hset(keys.order(order_id), "document", "nonsense")

        answers = [shop.get(f"/api/v1/orders/{order_id}") for order_id in (ended, neighbour, waiting)]
        client.hset(keys.order(waiting), "document", document or "")

    assert [answer.status for answer in answers] == [200, 200, 503]
    assert [answer.body["status"] for answer in answers[:2]] == ["confirmed"] * 2
    assert shop.end_of(waiting).body["status"] == "confirmed"


def test_a_claim_that_is_no_text_is_as_good_as_lost(shop: System) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    first = shop.place((sku, 1), key=key).body["id"]
    (claim,) = redis_client().scan_iter(match=f"idempotency:*:{key}", count=10_000)
    with broken(claim):
        redis_client().persist(claim)
        again = shop.place((sku, 1), key=key)

    assert (again.status, again.body["id"]) == (202, first)
    assert shop.end_of(first).body["status"] == "confirmed"


# --- those who look after it ------------------------------------------------------------------------------


def test_a_broken_record_keeps_no_other_cancellation_from_being_carried_out(client: "redis.Redis") -> None:
    held, other = accepted(client, *(an_order((a_sku(stock=1), 1)) for _ in range(2)))
    fulfil([held, other], client=client)
    client.zadd(keys.CANCELLATIONS, {held.id: 1, other.id: 2})
    with broken(keys.order(held.id)):
        sweeper.cancel_overdue(client, now_ms=10_000)
        assert status_in_redis(client, other) == "cancelled"

    sweeper.cancel_overdue(client, now_ms=20_000)

    assert status_in_redis(client, held) == "cancelled"
    assert_at_rest(client)


def test_a_last_verdict_that_is_no_text_is_overwritten(client: "redis.Redis") -> None:
    client.lpush(keys.LAST_RECONCILE, "something else")

    assert not reconciliation.was_just_done(client, 1)
    reconciliation.reconcile(client)

    assert reconciliation.last_verdict(client.get(keys.LAST_RECONCILE))


def test_figures_that_are_no_numbers_are_none(client: "redis.Redis") -> None:
    client.hset(keys.FIGURES, mapping={"intake:accepted": "3", "intake:paused": "many"})

    assert figures.totals(client) == {"intake:accepted": 3}


def test_a_pause_whose_key_is_broken_is_told_as_it_holds(client: "redis.Redis") -> None:
    client.lpush(keys.pause(pauses.Part.INTAKE), "something else")

    assert list(pauses.current(client)) == [pauses.Part.INTAKE]
    assert pauses.resume(client, pauses.Part.INTAKE, who="tests")


def test_without_it_a_broken_key_of_housekeeping_reads_as_a_missing_redis(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    with broken(heartbeat.SEEN):
        assert system_state.look(client).workers is None
        monkeypatch.setattr(stores, "is_of_a_broken_key", lambda _: False)
        with pytest.raises(redis.ResponseError):
            system_state.look(client)
