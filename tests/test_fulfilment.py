"""What becomes of orders: with one worker, with many at once, and after each kind of interruption."""

import threading
import uuid
from collections.abc import Callable
from contextlib import suppress

import msgspec
import psycopg
import pytest
import redis
from django.conf import settings
from django.db import connection

from shop import books, fulfilment, keys, stock
from shop.books import Question
from shop.domain import LineShortage, Order, ReasonCode, Status
from shop.fulfilment import Busy, Held, Rules, cancel, fulfil
from shop.models import Product, StockMovement
from shop.stores import StoreUnavailable
from tests.builders import (
    a_sku,
    accepted,
    an_order,
    assert_at_rest,
    at_once,
    free_in_redis,
    fulfilled,
    status_in_books,
    status_in_redis,
    wait_until,
)
from tests.refusals import full

NO_LOCKS = Rules(lock_ttl_ms=0)


def test_an_order_that_stock_allows_is_confirmed_and_takes_its_units(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))

    outcomes = fulfil([order], client=client)

    assert outcomes == {order.id: Status.CONFIRMED}
    assert (status_in_redis(client, order), status_in_books(order)) == ("confirmed", "confirmed")
    assert free_in_redis(client, sku) == 2
    assert_at_rest(client)


@pytest.mark.parametrize("rules", [Rules(), NO_LOCKS], ids=["with locks", "without locks"])
@pytest.mark.parametrize("round_", range(20))
def test_ten_units_and_two_simultaneous_orders_for_eight_confirm_exactly_one(
    client: "redis.Redis", rules: Rules, round_: int
) -> None:
    sku = a_sku(stock=10)
    orders = accepted(client, an_order((sku, 8)), an_order((sku, 8)))

    at_once(*(lambda order=order: fulfilled([order], client=client, rules=rules) for order in orders))

    assert sorted(str(status_in_books(order)) for order in orders) == ["confirmed", "rejected"]
    rejected = next(order for order in orders if status_in_books(order) == "rejected")
    reason = books.recorded([rejected.id])[rejected.id].reason
    assert reason is not None
    assert (reason.code, reason.lines) == (ReasonCode.INSUFFICIENT_STOCK, (LineShortage(sku, 8, 2),))
    assert free_in_redis(client, sku) == 2
    assert_at_rest(client)


@pytest.mark.parametrize("rules", [Rules(), NO_LOCKS], ids=["with locks", "without locks"])
def test_five_hundred_buyers_get_a_hundred_units(client: "redis.Redis", rules: Rules) -> None:
    sku = a_sku(stock=100)
    orders = accepted(client, *(an_order((sku, 1)) for _ in range(500)))

    def buy(some: list[Order]) -> None:
        for order in some:
            fulfilled([order], client=client, rules=rules)

    at_once(*(lambda part=part: buy(orders[part::8]) for part in range(8)))

    statuses = [status_in_books(order) for order in orders]
    assert (statuses.count("confirmed"), statuses.count("rejected")) == (100, 400)
    assert free_in_redis(client, sku) == 0
    assert_at_rest(client)


def test_a_batch_serves_earlier_orders_first_and_judges_each_by_itself(client: "redis.Redis") -> None:
    sku, other = a_sku(stock=10), a_sku(stock=1)
    orders = accepted(
        client,
        an_order((sku, 8)),
        an_order((sku, 8)),
        an_order((a_sku(stock=None), 1), (other, 1)),
        an_order((sku, 2), (other, 1)),
    )

    outcomes = fulfil(orders, client=client)

    assert [outcomes[order.id] for order in orders] == ["confirmed", "rejected", "rejected", "confirmed"]
    assert (free_in_redis(client, sku), free_in_redis(client, other)) == (0, 0)
    assert_at_rest(client)


def test_a_full_redis_lets_an_order_in_hand_end(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))

    with full(client):
        outcomes = fulfil([order], client=client)

    assert outcomes == {order.id: Status.CONFIRMED}
    assert (status_in_redis(client, order), free_in_redis(client, sku)) == ("confirmed", 2)
    assert_at_rest(client)


def test_an_order_takes_every_line_or_none(client: "redis.Redis") -> None:
    plenty, scarce = a_sku(stock=100), a_sku(stock=1)
    (order,) = accepted(client, an_order((plenty, 5), (scarce, 2)))

    fulfil([order], client=client)

    assert status_in_redis(client, order) == "rejected"
    assert (free_in_redis(client, plenty), free_in_redis(client, scarce)) == (100, 1)
    assert_at_rest(client)


def test_lines_that_repeat_a_sku_count_as_their_sum(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 6), (sku, 5)))

    fulfil([order], client=client)

    reason = books.recorded([order.id])[order.id].reason
    assert reason is not None
    assert reason.lines == (LineShortage(sku, 11, 10),)


@pytest.mark.usefixtures("locks")
def test_opposite_lock_orders_end_without_deadlock(client: "redis.Redis") -> None:
    left, right = a_sku(stock=1000), a_sku(stock=1000)
    forth = accepted(client, *(an_order((left, 1), (right, 1)) for _ in range(40)))
    back = accepted(client, *(an_order((right, 1), (left, 1)) for _ in range(40)))

    results = at_once(
        *(lambda order=order: fulfilled([order], client=client) for order in forth[:4] + back[:4]),
        lambda: fulfilled(forth[4:], client=client),
        lambda: fulfilled(back[4:], client=client),
    )

    assert [result for result in results if isinstance(result, Exception)] == []
    assert {status_in_books(order) for order in forth + back} == {"confirmed"}
    assert (free_in_redis(client, left), free_in_redis(client, right)) == (920, 920)
    assert_at_rest(client)


@pytest.mark.usefixtures("locks")
def test_the_same_order_given_to_many_workers_counts_once(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """None decides before all have reserved, or met the first one's lock; then one decides after the other."""
    sku = a_sku(stock=100)
    (order,) = accepted(client, an_order((sku, 7)))
    decide, all_have_reserved, turn = books.decide, threading.Barrier(8), threading.Lock()
    reserved: set[int] = set()

    def wait_for_all(point: str) -> None:
        if point == "worker.after_reserve" and threading.get_ident() not in reserved:
            reserved.add(threading.get_ident())
            all_have_reserved.wait(timeout=10)

    def decide_in_turn(questions: list[Question], **options: str) -> object:
        with turn:
            return decide(questions, **options)

    monkeypatch.setattr(fulfilment, "reach", wait_for_all)
    monkeypatch.setattr(books, "decide", decide_in_turn)
    rules = fulfilment.Rules(max_attempts=100)

    ends = at_once(*(lambda: fulfil([order], client=client, rules=rules) for _ in range(8)))

    assert ends == [{order.id: Status.CONFIRMED}] * 8
    assert status_in_books(order) == "confirmed"
    assert free_in_redis(client, sku) == 93
    assert_at_rest(client)


def test_an_order_behind_a_foreign_lock_waits_and_touches_nothing(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    stock.refresh(client, [sku])
    client.set(keys.lock(sku), "somebody-else", px=4000)
    (order,) = accepted(client, an_order((sku, 1)))

    outcomes = fulfil([order], client=client)

    assert outcomes == {order.id: Busy(sku=sku)}
    assert client.get(keys.lock(sku)) == "somebody-else"
    assert free_in_redis(client, sku) == 10
    assert status_in_books(order) is None


def test_the_lock_of_a_frozen_holder_expires_and_the_next_order_goes_on(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    client.set(keys.lock(sku), "frozen", px=300)
    (order,) = accepted(client, an_order((sku, 1)))

    outcomes = fulfilled([order], client=client)

    assert outcomes == {order.id: Status.CONFIRMED}
    assert_at_rest(client)


def test_a_holder_that_froze_past_its_lock_does_not_release_the_next_holders(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 1)))
    decide = books.decide

    def freeze(questions: list[Question], **_: object) -> object:
        client.set(keys.lock(sku), "the next holder", px=4000)
        return decide(questions)

    monkeypatch.setattr(books, "decide", freeze)

    fulfil([order], client=client)

    assert client.get(keys.lock(sku)) == "the next holder"


def test_the_lock_is_held_from_reserving_until_the_commit_is_settled(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 1)))
    decide, seen = books.decide, []

    def look(questions: list[Question], **_: object) -> object:
        recorded = decide(questions)
        seen.append((client.get(keys.lock(sku)), 0 < client.pttl(keys.lock(sku)) <= 5000))
        return recorded

    monkeypatch.setattr(books, "decide", look)

    fulfil([order], client=client)

    assert seen == [(order.id, True)]
    assert client.get(keys.lock(sku)) is None


def test_locks_that_are_switched_off_are_not_taken(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:
    (order,) = accepted(client, an_order((sku := a_sku(stock=10), 1)))
    decide, holders = books.decide, []

    def look(questions: list[Question], **_: object) -> object:
        holders.append(client.get(keys.lock(sku)))
        return decide(questions)

    monkeypatch.setattr(books, "decide", look)

    fulfil([order], client=client)

    assert holders == ([order.id] if locks == "with locks" else [None])


class Died(Exception):
    """Stands for a process that was killed: nothing after this point ran."""


@pytest.mark.parametrize("step", ["before the decision", "after the decision"])
def test_a_worker_that_dies_leaves_the_order_to_the_next_one(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))
    with monkeypatch.context() as fault:
        decide = books.decide

        def die(questions: list[Question], **_: object) -> object:
            if step == "after the decision":
                decide(questions)
            raise Died

        fault.setattr(books, "decide", die)
        with pytest.raises(Died):
            fulfil([order], client=client)
    rival = accepted(client, an_order((sku, 8)))[0]

    outcomes = fulfil([order], client=client) | fulfil([rival], client=client)

    assert (outcomes[order.id], outcomes[rival.id]) == (Status.CONFIRMED, Status.REJECTED)
    assert free_in_redis(client, sku) == 2
    assert_at_rest(client)


def test_counters_that_an_end_which_came_late_dropped_are_published_anew(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=10)
    late, meanwhile = accepted(client, an_order((sku, 3)), an_order((sku, 2)))
    decide = books.decide

    def sleep_while_another_one_is_decided(questions: list[Question], **_: object) -> object:
        decided = decide(questions)
        monkeypatch.setattr(books, "decide", decide)
        fulfil([meanwhile], client=client, rules=NO_LOCKS)
        return decided

    monkeypatch.setattr(books, "decide", sleep_while_another_one_is_decided)

    fulfil([late], client=client, rules=NO_LOCKS)

    assert free_in_redis(client, sku) == 5


def test_an_order_that_can_t_be_stored_is_held_and_its_neighbours_end(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    bad = msgspec.structs.replace(an_order((sku, 1)), fingerprint="x" * 33)
    orders = accepted(client, an_order((sku, 1)), an_order((sku, 1)), bad, an_order((sku, 1)))

    outcomes = fulfil(orders, client=client)

    assert isinstance(outcomes.pop(bad.id), Held)
    assert set(outcomes.values()) == {Status.CONFIRMED}
    assert free_in_redis(client, sku) == 7


def test_an_ended_order_stays_in_redis_for_as_long_as_the_setting_says(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ENDED_ORDERS_KEPT_S", 77)
    orders = accepted(client, an_order((a_sku(stock=1), 1)), an_order((a_sku(stock=1), 2)))

    fulfil(orders, client=client)

    assert all(60 < client.ttl(keys.order(order.id)) <= 77 for order in orders)


def test_a_worker_that_wakes_up_after_the_order_ended_changes_nothing(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))
    settle = fulfilment._settle

    def sleep_through_the_order_s_life(*args: object, **kwargs: object) -> object:
        monkeypatch.setattr(fulfilment, "_settle", settle)
        fulfil([order], client=client, rules=NO_LOCKS)
        cancel(order.id, client=client)
        return settle(*args, **kwargs)

    monkeypatch.setattr(fulfilment, "_settle", sleep_through_the_order_s_life)

    fulfil([order], client=client)

    assert (status_in_redis(client, order), status_in_books(order)) == ("cancelled", "cancelled")
    assert free_in_redis(client, sku) == 10
    assert_at_rest(client)


@pytest.mark.usefixtures("locks")
@pytest.mark.parametrize("lost", ["everything", "the counter", "the version", "the order record"])
@pytest.mark.parametrize("step", ["before the decision", "after the decision"])
def test_whatever_redis_loses_under_a_worker_the_books_stay_exact(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, lost: str, step: str
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))
    decide = books.decide

    def lose(questions: list[Question], **_: object) -> object:
        recorded = decide(questions) if step == "after the decision" else None
        match lost:
            case "everything":
                client.flushdb()
            case "the counter":
                client.delete(keys.stock(sku))
            case "the version":
                client.delete(keys.version(sku))
            case "the order record":
                client.delete(keys.order(order.id))
        monkeypatch.setattr(books, "decide", decide)
        stock.refresh(client, [sku])
        return recorded or decide(questions)

    monkeypatch.setattr(books, "decide", lose)

    fulfil([order], client=client)
    rivals = accepted(client, an_order((sku, 8)), an_order((sku, 2)))
    outcomes = fulfil(rivals, client=client)

    assert status_in_books(order) == "confirmed"
    assert list(outcomes.values()) == [Status.REJECTED, Status.CONFIRMED]
    assert free_in_redis(client, sku) == 0
    assert_at_rest(client)


def goes_back(client: "redis.Redis", order: Order, sku: str) -> None:
    """Redis is again as it was when the order had just been accepted: it lost what it had not synced."""
    client.flushdb()
    accepted(client, order)
    client.set(keys.stock(sku), 10)
    client.set(keys.version(sku), "0:1")


@pytest.mark.parametrize("cancelled", [False, True], ids=["confirmed", "cancelled meanwhile"])
def test_a_redis_that_went_back_under_a_worker_shows_what_postgresql_has(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))
    decide = books.decide

    def freeze(questions: list[Question], **_: object) -> object:
        decided = decide(questions)
        if cancelled:
            books.cancel(order.id)
        goes_back(client, order, sku)
        return decided

    monkeypatch.setattr(books, "decide", freeze)

    fulfil([order], client=client)
    monkeypatch.undo()
    fulfil(accepted(client, an_order((sku, 2))), client=client)

    assert free_in_redis(client, sku) == (8 if cancelled else 0)
    assert Product.objects.get(sku=sku).confirmed == (2 if cancelled else 10)


@pytest.mark.usefixtures("locks")
@pytest.mark.parametrize("worker", ["goes on", "dies"])
def test_a_key_that_redis_lost_and_took_for_another_order_shows_the_one_in_the_books(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, worker: str
) -> None:
    wanted, other, key = a_sku(stock=10), a_sku(stock=10), uuid.uuid4().hex
    (order,) = accepted(client, an_order((wanted, 8), key=key))
    another = an_order((other, 3), key=key)
    decide = books.decide

    def lose(questions: list[Question], **_: object) -> object:
        """Everything; stock is published and the key comes again before PostgreSQL has the order."""
        client.flushdb()
        stock.refresh(client, [wanted, other])
        accepted(client, another)
        monkeypatch.setattr(books, "decide", decide)
        recorded = decide(questions)
        if worker == "dies":
            raise Died
        return recorded

    monkeypatch.setattr(books, "decide", lose)
    with suppress(Died):
        fulfil([order], client=client)

    outcomes = fulfil([another], client=client)

    assert outcomes == {order.id: Status.CONFIRMED}
    assert client.hget(keys.order(order.id), "fingerprint") in {None, order.fingerprint}
    stock.refresh(client, [wanted, other])
    assert (free_in_redis(client, wanted), free_in_redis(client, other)) == (2, 10)
    assert_at_rest(client)


def test_redis_promising_too_much_cannot_oversell(client: "redis.Redis") -> None:
    sku, other = a_sku(stock=10), a_sku(stock=10)
    stock.refresh(client, [sku, other])
    client.set(keys.stock(sku), 1000)
    orders = accepted(client, *(an_order((sku, 8), (other, 1)) for _ in range(3)), an_order((other, 1)))

    outcomes = fulfil(orders, client=client)

    assert list(outcomes.values()) == ["confirmed", "rejected", "rejected", "confirmed"]
    assert Product.objects.get(sku=sku).confirmed == 8
    assert_at_rest(client)


@pytest.mark.parametrize(
    "counter", [None, "x", "--5", "007", "\u00b2", "1e3", "12345678901234567890", ["a list"]]
)
def test_a_counter_that_is_missing_or_garbage_stops_no_order_and_is_written_over(
    client: "redis.Redis", counter: str | list[str] | None
) -> None:
    sku, other = a_sku(stock=3), a_sku(stock=3)
    stock.refresh(client, [other])
    if isinstance(counter, list):
        client.rpush(keys.stock(sku), *counter)
    elif counter is not None:
        client.set(keys.stock(sku), counter)
    orders = accepted(client, an_order((sku, 3), (other, 1)), an_order((sku, 1)))

    outcomes = fulfil(orders, client=client)

    assert list(outcomes.values()) == [Status.CONFIRMED, Status.REJECTED]
    assert (free_in_redis(client, sku), free_in_redis(client, other)) == (0, 2)
    assert_at_rest(client)


@pytest.mark.parametrize("shown", [0, 2, 17])
def test_a_counter_that_somebody_edited_refuses_no_order_that_postgresql_can_confirm(
    client: "redis.Redis", shown: int
) -> None:
    sku = a_sku(stock=10)
    stock.refresh(client, [sku])
    client.set(keys.stock(sku), shown)
    (order,) = accepted(client, an_order((sku, 8)))

    outcomes = fulfil([order], client=client)

    assert outcomes == {order.id: Status.CONFIRMED}
    assert free_in_redis(client, sku) == 2
    assert client.hget(keys.order(order.id), "attempts") == "1"
    assert_at_rest(client)


def test_an_order_whose_row_somebody_holds_waits_alone(client: "redis.Redis") -> None:
    held, other = a_sku(stock=10), a_sku(stock=10)
    orders = accepted(client, an_order((held, 1)), an_order((other, 1)), an_order((other, 2), (held, 1)))
    with psycopg.connect(settings.DATABASE_URL) as somebody:
        somebody.execute("SELECT 1 FROM shop_product WHERE sku = %s FOR UPDATE", [held])

        outcomes = fulfil(orders, client=client)

        assert list(outcomes.values()) == [
            Busy(sku=held, is_locked=False),
            Status.CONFIRMED,
            Busy(sku=held, is_locked=False),
        ]
        assert client.exists(keys.lock(held), keys.lock(other)) == 0
        assert client.hget(keys.order(orders[0].id), "attempts") == "0"
    assert fulfil(orders, client=client)[orders[2].id] is Status.CONFIRMED
    assert_at_rest(client)


def test_an_order_for_an_unknown_sku_is_rejected_and_names_it(client: "redis.Redis") -> None:
    known, unknown = a_sku(stock=5), a_sku(stock=None)
    (order,) = accepted(client, an_order((known, 1), (unknown, 2)))

    fulfil([order], client=client)

    reason = books.recorded([order.id])[order.id].reason
    assert reason is not None
    assert (reason.code, reason.lines) == (ReasonCode.UNKNOWN_SKU, (LineShortage(unknown, 2, 0),))
    assert client.exists(keys.stock(unknown), keys.version(unknown)) == 0


def killed_by(killer: Order) -> Callable[[list[Question]], object]:
    """Deciding, for a worker which dies when that order is in its hands."""
    decide = books.decide

    def decide_or_die(questions: list[Question], **_: object) -> object:
        if killer.id in {question.order.id for question in questions}:
            raise Died
        return decide(questions)

    return decide_or_die


def test_an_order_that_kills_its_workers_is_given_up_when_it_can_be_at_work_no_more_and_frees_its_stock(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))
    rules = Rules(max_attempts=3, attempt_ms=200)
    with monkeypatch.context() as fault:
        fault.setattr(books, "decide", killed_by(order))
        for _ in range(3):
            with pytest.raises(Died):
                fulfil([order], client=client, rules=rules)

    early = fulfil([order], client=client, rules=rules)[order.id]
    wait_until(lambda: not client.exists(keys.last_attempt(order.id)))
    outcomes = fulfil([order], client=client, rules=rules)

    assert isinstance(early, Held)
    assert outcomes == {order.id: Status.FAILED}
    assert free_in_redis(client, sku) == 10
    assert_at_rest(client)


def one_that_reserve_always_fails_over() -> Order:
    """An order of more lines than a shop may allow: more than Lua's stack holds."""
    return an_order(*((f"line {number} of many", 1) for number in range(5_000)))


def test_an_order_whose_reserving_always_fails_is_given_up_as_one_that_kills_its_workers(
    client: "redis.Redis",
) -> None:
    (order,) = accepted(client, one_that_reserve_always_fails_over())
    rules = Rules(max_attempts=3, attempt_ms=0)

    for _ in range(3):
        with pytest.raises(redis.ResponseError):
            fulfil([order], client=client, rules=rules)

    assert fulfil([order], client=client, rules=rules) == {order.id: Status.FAILED}
    assert_at_rest(client)


@pytest.mark.parametrize(("stock", "end"), [(10, Status.CONFIRMED), (1, Status.REJECTED)])
def test_an_order_whose_last_attempt_is_at_work_is_not_given_up_by_a_copy_of_its_message(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, stock: int, end: Status
) -> None:
    sku = a_sku(stock=stock)
    (order,) = accepted(client, an_order((sku, 8)))
    decide, copies = books.decide, []

    def meet_a_copy(questions: list[Question], **_: object) -> object:
        monkeypatch.setattr(books, "decide", decide)
        copies.append(fulfil([order], client=client, rules=Rules(max_attempts=1)))
        return decide(questions)

    monkeypatch.setattr(books, "decide", meet_a_copy)

    outcomes = fulfil([order], client=client, rules=Rules(max_attempts=1))

    assert isinstance(copies[0][order.id], Held)
    assert outcomes == {order.id: end}
    assert client.hget(keys.order(order.id), "attempts") == "1"
    assert_at_rest(client)


def test_an_order_that_shared_the_batches_of_one_that_kills_workers_makes_its_last_attempt_alone(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=10)
    order, killer = accepted(client, an_order((sku, 2)), an_order((sku, 3)))
    in_company, alone = Rules(max_attempts=3, is_alone=False), Rules(max_attempts=3, attempt_ms=1)
    monkeypatch.setattr(books, "decide", killed_by(killer))
    for _ in range(2):
        with pytest.raises(Died):
            fulfil([order, killer], client=client, rules=in_company)

    with suppress(Died):
        fulfil([order, killer], client=client, rules=in_company)

    assert client.hget(keys.order(order.id), "attempts") == "2"
    assert fulfil([order], client=client, rules=alone) == {order.id: Status.CONFIRMED}
    with pytest.raises(Died):
        fulfil([killer], client=client, rules=alone)
    wait_until(lambda: not client.exists(keys.last_attempt(killer.id)))
    monkeypatch.undo()
    assert fulfil([killer], client=client, rules=alone) == {killer.id: Status.FAILED}
    assert_at_rest(client)


def test_a_store_that_is_away_costs_an_order_no_attempt(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))
    with monkeypatch.context() as fault:

        def away(questions: list[Question], **_: object) -> object:
            raise StoreUnavailable("PostgreSQL: gone")

        fault.setattr(books, "decide", away)
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                fulfil([order], client=client, rules=Rules(max_attempts=2))
    assert client.get(keys.lock(sku)) is None

    assert fulfil([order], client=client, rules=Rules(max_attempts=2)) == {order.id: Status.CONFIRMED}
    assert_at_rest(client)


def test_an_outage_turns_no_rejection_into_a_failure(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    (order,) = accepted(client, an_order((a_sku(stock=1), 2)))
    with monkeypatch.context() as fault:

        def away(questions: list[Question], **_: object) -> object:
            raise StoreUnavailable("PostgreSQL: gone")

        fault.setattr(books, "decide", away)
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                fulfil([order], client=client, rules=Rules(max_attempts=2))

    assert fulfil([order], client=client, rules=Rules(max_attempts=2)) == {order.id: Status.REJECTED}


def test_a_read_only_postgresql_is_a_store_that_is_away(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(stock=5), 2)))
    for _ in range(4):
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = on")
        with pytest.raises(StoreUnavailable):
            fulfil([order], client=client, rules=Rules(max_attempts=2))

    assert fulfil([order], client=client, rules=Rules(max_attempts=2)) == {order.id: Status.CONFIRMED}


@pytest.mark.usefixtures("locks")
def test_cancelling_returns_the_units_once_however_often_it_is_done(client: "redis.Redis") -> None:
    sku = a_sku(stock=20)
    order, other = accepted(client, an_order((sku, 8)), an_order((sku, 9)))
    fulfil([order, other], client=client)

    at_once(*(lambda: cancel(order.id, client=client) for _ in range(6)))

    assert (status_in_redis(client, order), status_in_books(order)) == ("cancelled", "cancelled")
    assert free_in_redis(client, sku) == 11
    assert StockMovement.objects.filter(sku=sku, kind="cancellation").count() == 1
    assert_at_rest(client)


BEFORE, MEANWHILE = "before the worker begins", "while the worker decides"


@pytest.mark.parametrize(
    ("moment", "wanted", "end"),
    [
        pytest.param(BEFORE, 1, Status.CANCELLED, id="seen before it would be confirmed"),
        pytest.param(BEFORE, 100, Status.CANCELLED, id="seen before it would be rejected"),
        pytest.param(MEANWHILE, 1, Status.CANCELLED, id="requested while it is confirmed"),
        # A client may have read the rejection before it asked.
        pytest.param(MEANWHILE, 100, Status.REJECTED, id="requested while it is rejected"),
    ],
)
def test_a_cancellation_of_a_queued_order_is_carried_out_unless_it_is_rejected_meanwhile(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, moment: str, wanted: int, end: Status
) -> None:
    sku = a_sku(stock=10)
    stock.refresh(client, [sku])
    (order,) = accepted(client, an_order((sku, wanted)))
    decide = books.decide

    def request() -> None:
        client.hset(keys.order(order.id), "cancel", "1")
        client.zadd(keys.CANCELLATIONS, {order.id: 1})

    def request_meanwhile(questions: list[Question], **_: object) -> object:
        request()
        return decide(questions)

    if moment == BEFORE:
        request()
    else:
        monkeypatch.setattr(books, "decide", request_meanwhile)

    outcomes = fulfil([order], client=client)

    assert outcomes == {order.id: end}
    assert (status_in_redis(client, order), status_in_books(order)) == (end, end)
    assert free_in_redis(client, sku) == 10
    assert_at_rest(client)


def test_an_order_of_two_thousand_lines_works(client: "redis.Redis") -> None:
    skus = [a_sku(stock=2) for _ in range(2000)]
    (order,) = accepted(client, an_order(*((sku, 1) for sku in skus)))

    assert fulfil([order], client=client) == {order.id: Status.CONFIRMED}
    assert free_in_redis(client, skus[-1]) == 1
    assert_at_rest(client)


def test_an_order_of_as_many_lines_as_a_shop_may_allow_is_confirmed(client: "redis.Redis") -> None:
    skus = [a_sku(stock=1) for _ in range(3_000)]
    orders = accepted(client, an_order(*((sku, 1) for sku in skus)), an_order((skus[-1], 1)))

    ended = fulfil(orders, client=client)

    assert list(ended.values()) == [Status.CONFIRMED, Status.REJECTED]
    assert client.get(keys.stock(skus[0])) == "0"
