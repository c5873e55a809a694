"""A PostgreSQL that went back is noticed, decides nothing, and is made what clients were told."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from django.db import connection, connections
from django.db.models import F
from structlog.testing import capture_logs

import tasks.maintenance
from shop import books, continuity, fulfilment, keys, movements, recovery, stock, sweeper
from shop.domain import Order, Status
from shop.fulfilment import fulfil
from shop.models import History, Product
from shop.movements import Insufficient, Movement
from shop.stores import StoreUnavailable
from tests.builders import (
    a_sku,
    accepted,
    an_order,
    assert_at_rest,
    free_in_redis,
    row_held,
    status_in_books,
    status_in_redis,
    wait_until,
    wipe_books,
)
from workers.embedded import PostgresServer


@pytest.fixture(autouse=True)
def followed(client: "redis.Redis") -> None:
    """Redis follows this PostgreSQL: sweeps have counted."""
    for _ in range(3):
        assert continuity.continues(client)


def goes_back(order: Order, *deliveries: Movement) -> None:
    """As a backup does that was made before this order, these deliveries, and the last sweeps."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_stockmovement DISABLE TRIGGER USER")
        cursor.execute("DELETE FROM shop_stockmovement WHERE order_id = %s", [order.id])
        for delivery in deliveries:
            cursor.execute("DELETE FROM shop_stockmovement WHERE request = %s", [delivery.id])
            cursor.execute("DELETE FROM shop_movementrequest WHERE request = %s", [delivery.id])
        cursor.execute("ALTER TABLE shop_stockmovement ENABLE TRIGGER USER")
        cursor.execute("DELETE FROM shop_orderline WHERE order_id = %s", [order.id])
        cursor.execute("DELETE FROM shop_order WHERE id = %s", [order.id])
        cursor.execute("DELETE FROM shop_orderidentity WHERE id = %s", [order.id])
    Product.objects.filter(sku__in=order.skus).update(confirmed=0, version=1)
    for delivery in deliveries:
        Product.objects.filter(sku=delivery.sku).update(on_sale=F("on_sale") - delivery.delta)
    History.objects.update(ticks=1)


def moved(client: "redis.Redis", sku: str, units: int, request: str = "") -> movements.Outcome:
    """A delivery of so many units, or a withdrawal."""
    request = request or str(uuid.uuid4())
    return movements.move(client=client, request=request, by="shop", sku=sku, delta=units, reason="pallet 7")


def delivered(client: "redis.Redis", sku: str, units: int) -> Movement:
    """A movement that was answered as done."""
    made = moved(client, sku, units)
    assert isinstance(made, Movement)
    return made


def identity() -> tuple[str, int]:
    """Branch and count of PostgreSQL's history."""
    return History.objects.values_list("branch", "ticks").get()


def maintenance_tasks(client: "redis.Redis") -> list[str]:
    """What workers are asked for."""
    return [
        json.loads(message)["headers"]["task"] for message in client.lrange(keys.MAINTENANCE_QUEUE, 0, -1)
    ]


def test_a_postgresql_that_goes_on_is_followed(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(stock=10), 1)))

    sweeper.sweep(client)

    assert maintenance_tasks(client) == []
    assert fulfil([order], client=client) == {order.id: Status.CONFIRMED}


def test_one_that_went_back_decides_nothing_until_it_is_what_clients_were_told(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    promised, rival = accepted(client, an_order((sku, 8)), an_order((sku, 8)))
    fulfil([promised], client=client)

    goes_back(promised)
    with pytest.raises(StoreUnavailable, match="Redis has followed"):
        fulfil([rival], client=client)
    sweeper.sweep(client)
    sweeper.sweep(client)
    asked = maintenance_tasks(client)
    tasks.maintenance.follow()

    assert asked == [continuity.FOLLOW_TASK]
    assert fulfil([rival], client=client) == {rival.id: Status.REJECTED}
    assert [status_in_books(order) for order in (promised, rival)] == ["confirmed", "rejected"]
    assert client.hget(keys.order(rival.id), "attempts") == "1"
    assert free_in_redis(client, sku) == 2
    assert client.exists(keys.RECOVERING) == 0
    assert continuity.continues(client)
    assert_at_rest(client)


def test_were_it_to_decide_units_that_clients_were_promised_would_be_sold_again(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=10)
    promised, rival = accepted(client, an_order((sku, 8)), an_order((sku, 8)))
    fulfil([promised], client=client)
    decide = fulfilment.books.decide
    monkeypatch.setattr(fulfilment.books, "decide", lambda questions, followed: decide(questions))

    goes_back(promised)
    stock.begin_epoch(client)
    stock.refresh(client, rival.skus)

    assert fulfil([rival], client=client) == {rival.id: Status.CONFIRMED}


def test_what_one_decided_that_went_back_since_is_not_published(client: "redis.Redis") -> None:
    """Its worker froze between the decision and its publication, and wakes up when all is over."""
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))

    def frozen(point: str) -> None:
        if point == "worker.before_settle":
            patch.undo()
            goes_back(order)
            continuity.follow_anew(client)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fulfilment, "reach", frozen)
        with pytest.raises(StoreUnavailable, match="went back after it had decided"):
            fulfil([order], client=client)

    assert (status_in_redis(client, order), status_in_books(order)) == ("queued", None)
    assert fulfil([order], client=client) == {order.id: Status.CONFIRMED}
    assert free_in_redis(client, sku) == 2
    assert_at_rest(client)


def test_a_cancellation_of_an_order_that_postgresql_lost_is_carried_out_when_it_is_back(
    client: "redis.Redis",
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))
    fulfil([order], client=client)
    goes_back(order)
    client.zadd(keys.CANCELLATIONS, {order.id: 1})

    sweeper.cancel_overdue(client, 10_000)
    kept = client.zscore(keys.CANCELLATIONS, order.id)
    continuity.follow_anew(client)
    sweeper.cancel_overdue(client, 100_000)

    assert kept is not None
    assert (status_in_redis(client, order), free_in_redis(client, sku)) == ("cancelled", 10)
    assert_at_rest(client)


# --- what is no continuation ---------------------------------------------------------------------------


def test_one_that_is_behind_by_little_is_not_taken_for_a_continuation_however_often_it_is_looked_at(
    client: "redis.Redis",
) -> None:
    (order,) = accepted(client, an_order((a_sku(stock=10), 1)))
    History.objects.update(ticks=F("ticks") - 1)

    looks = [continuity.continues(client) for _ in range(5)]

    assert looks == [False] * 5
    with pytest.raises(StoreUnavailable, match="Redis has followed"):
        fulfil([order], client=client)


def test_one_whose_place_was_taken_is_not_followed_again_however_far_it_has_counted(
    client: "redis.Redis",
) -> None:
    branch, ticks = identity()
    continuity.follow_anew(client)

    History.objects.update(branch=branch, ticks=ticks + 1_000)

    assert not continuity.continues(client)


def test_a_process_that_froze_over_its_look_has_nobody_follow_the_old_one_again(
    client: "redis.Redis",
) -> None:
    run = continuity.scripts.run

    def frozen(*args: object) -> object:
        patch.undo()
        continuity.follow_anew(client)
        return run(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuity.scripts, "run", frozen)
        continuity.continues(client)

    assert continuity.continues(client)


@pytest.mark.parametrize("garbage", ["", "hello", "a b", "1:2: x", "1:2: 99999999999999999999"])
def test_whatever_stands_in_the_key_it_ends_with_a_postgresql_that_is_followed(
    client: "redis.Redis", garbage: str
) -> None:
    (order,) = accepted(client, an_order((a_sku(stock=10), 1)))
    client.set(keys.FOLLOWED, garbage)

    sweeper.sweep(client)
    for _ in maintenance_tasks(client):
        tasks.maintenance.follow()

    assert continuity.continues(client)
    assert fulfil([order], client=client) == {order.id: Status.CONFIRMED}


def test_a_recovery_that_a_store_stops_is_asked_for_again_by_the_next_sweep(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(stock=10), 8)))
    fulfil([order], client=client)
    goes_back(order)
    sweeper.sweep(client)
    with connection.cursor() as cursor:
        cursor.execute("ALTER FUNCTION shop_decide RENAME TO being_restored")

    try:
        done = tasks.maintenance.follow()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER FUNCTION being_restored RENAME TO shop_decide")
    client.delete(keys.SWEEPER_HEARTBEAT)
    sweeper.sweep(client)

    assert done == "put off"
    assert maintenance_tasks(client) == [continuity.FOLLOW_TASK] * 2
    tasks.maintenance.follow()
    assert status_in_books(order) == "confirmed"


def test_an_order_whose_product_row_somebody_holds_is_booked_when_that_is_free(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))
    fulfil([order], client=client)
    goes_back(order)

    with ExitStack() as somebody:
        somebody.enter_context(row_held(sku))
        monkeypatch.setattr(recovery, "sleep", lambda _: somebody.close())  # that long the recovery waits
        done = continuity.follow_anew(client)

    assert (done.booked, done.differences) == (1, [])
    assert status_in_books(order) == "confirmed"
    assert_at_rest(client)


# --- stock movements -----------------------------------------------------------------------------------


def test_a_delivery_that_postgresql_lost_is_named_and_entered_again_before_the_orders_that_live_on_it(
    client: "redis.Redis",
) -> None:
    sku = a_sku(stock=1)
    delivery = delivered(client, sku, 5)
    (order,) = accepted(client, an_order((sku, 6)))
    fulfil([order], client=client)
    withdrawal = delivered(client, a_sku(stock=3), -2)

    goes_back(order, delivery, withdrawal)
    with capture_logs() as log:
        done = continuity.follow_anew(client)

    named = [line["what"] for line in log if line["event"].startswith("lost with the old PostgreSQL")]
    assert [delivery.id in named[0], withdrawal.id in named[1], len(named)] == [True, True, 2]
    assert "pallet 7" in named[0]
    assert (done.moved, done.booked, done.differences) == (2, 1, [])
    again = moved(client, sku, 5, delivery.id)
    assert isinstance(again, Movement)
    assert replace(delivery, fresh=False, available=0, created_at=again.created_at) == again
    assert (status_in_books(order), free_in_redis(client, sku)) == ("confirmed", 0)
    assert_at_rest(client)


@pytest.mark.parametrize("is_in_the_backup", [True, False])
def test_units_that_a_cancellation_gave_back_before_it_was_published_are_those_of_the_order_that_got_them(
    client: "redis.Redis", is_in_the_backup: bool
) -> None:
    sku = a_sku(stock=8)
    cancelled, after = accepted(client, an_order((sku, 8)), an_order((sku, 8)))
    fulfil([cancelled], client=client)
    client.zadd(keys.CANCELLATIONS, {cancelled.id: 1})
    books.cancel(cancelled.id)
    assert fulfil([after], client=client) == {after.id: Status.CONFIRMED}

    goes_back(after)
    goes_back(cancelled)
    Product.objects.filter(sku=sku).update(returned=0)
    if is_in_the_backup:
        books.decide([books.Question(order=cancelled, intent=books.Intent.TAKE)])
    done = continuity.follow_anew(client)

    assert done.differences == []
    assert [status_in_books(order) for order in (cancelled, after)] == ["cancelled", "confirmed"]
    assert [status_in_redis(client, order) for order in (cancelled, after)] == ["cancelled", "confirmed"]
    assert_at_rest(client)


def test_were_movements_not_remembered_a_delivery_would_be_lost_and_an_order_with_it(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movements, "_note", lambda *_: None)

    with pytest.raises((AssertionError, IndexError)):
        test_a_delivery_that_postgresql_lost_is_named_and_entered_again_before_the_orders_that_live_on_it(
            client
        )
    wipe_books()


def test_a_withdrawal_that_can_t_be_entered_again_is_named(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    withdrawal = delivered(client, sku, -9)
    (order,) = accepted(client, an_order((sku, 1)))
    goes_back(order, withdrawal)
    Product.objects.filter(sku=sku).update(confirmed=5)

    done = continuity.follow_anew(client)

    Product.objects.filter(sku=sku).update(confirmed=0)
    assert [withdrawal.id in str(difference) for difference in done.differences] == [True]


def test_a_movement_that_was_refused_is_not_remembered(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)

    refused = moved(client, sku, -11), moved(client, "no such SKU", 1)

    assert refused == (Insufficient(10), movements.UnknownSku())
    assert list(movements.lost(client)) == []


def test_a_delivery_is_put_off_until_postgresql_is_followed_again_and_counts_then(
    client: "redis.Redis",
) -> None:
    sku, request = a_sku(stock=10), str(uuid.uuid4())
    History.objects.update(ticks=1)

    with pytest.raises(StoreUnavailable, match="Redis has followed"):
        moved(client, sku, 5, request)
    before = Product.objects.get(sku=sku).on_sale
    continuity.follow_anew(client)

    assert before == 10
    made = moved(client, sku, 5, request)
    assert isinstance(made, Movement)
    assert (made.available, Product.objects.get(sku=sku).on_sale, free_in_redis(client, sku)) == (15, 15, 15)


@pytest.mark.parametrize("point", ["movement.after_books", "cancel.after_books"])
def test_what_one_wrote_that_went_back_since_is_not_published_by_a_process_that_froze(
    client: "redis.Redis", point: str
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))
    fulfil([order], client=client)

    def frozen(reached: str) -> None:
        if reached == point:
            patch.undo()
            continuity.follow_anew(client)
            Product.objects.filter(sku=sku).update(version=1)
            stock.begin_epoch(client)
            stock.refresh(client, [sku])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fulfilment, "reach", frozen)
        patch.setattr(movements, "reach", frozen)
        with pytest.raises(StoreUnavailable, match="went back after"):
            moved(client, sku, 5) if point.startswith("movement") else fulfilment.cancel(
                order.id, client=client
            )

    assert stock.seen(client, [sku])[sku].version == 1


def takes_writes() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT NOT pg_is_in_recovery()")
        return bool(cursor.fetchone()[0])


@pytest.fixture
def promoted(postgres_server: PostgresServer) -> Iterator[Callable[[], None]]:
    """Starts PostgreSQL on another timeline, as a replica that is promoted is."""

    def promote() -> None:
        connections.close_all()
        postgres_server.stop()
        cluster = Path(postgres_server.folder) / "cluster"
        (cluster / "recovery.signal").touch()
        with (cluster / "postgresql.auto.conf").open("a") as settings:
            settings.write("restore_command = 'false'\n")
        postgres_server.start()
        wait_until(takes_writes, what="the end of the promotion")

    yield promote
    with connection.cursor() as cursor:
        cursor.execute("ALTER SYSTEM RESET restore_command")


def test_another_timeline_is_no_continuation_however_far_it_has_counted(
    client: "redis.Redis", promoted: Callable[[], None]
) -> None:
    (order,) = accepted(client, an_order((a_sku(stock=10), 1)))

    promoted()

    assert not continuity.continues(client)
    with pytest.raises(StoreUnavailable, match="Redis has followed"):
        fulfil([order], client=client)
    continuity.follow_anew(client)
    assert fulfil([order], client=client) == {order.id: Status.CONFIRMED}
