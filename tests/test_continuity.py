"""A PostgreSQL that went back is noticed, decides nothing, and is made what clients were told."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from django.db import connection, connections

import tasks.maintenance
from shop import continuity, fulfilment, keys, stock, sweeper
from shop.domain import Order, Status
from shop.fulfilment import fulfil
from shop.models import History, Product
from shop.stores import StoreUnavailable
from tests.builders import (
    a_sku,
    accepted,
    an_order,
    assert_at_rest,
    free_in_redis,
    status_in_books,
    status_in_redis,
    wait_until,
)
from workers.embedded import PostgresServer


@pytest.fixture(autouse=True)
def followed(client: "redis.Redis") -> None:
    """Redis follows this PostgreSQL: sweeps have counted."""
    for _ in range(3):
        assert continuity.continues(client)


def goes_back(order: Order) -> None:
    """As a backup does that was made before this order, and before the last sweeps."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_stockmovement DISABLE TRIGGER USER")
        cursor.execute("DELETE FROM shop_stockmovement WHERE order_id = %s", [order.id])
        cursor.execute("ALTER TABLE shop_stockmovement ENABLE TRIGGER USER")
        cursor.execute("DELETE FROM shop_orderline WHERE order_id = %s", [order.id])
        cursor.execute("DELETE FROM shop_order WHERE id = %s", [order.id])
    Product.objects.filter(sku__in=order.skus).update(confirmed=0, version=1)
    History.objects.update(ticks=1)


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
