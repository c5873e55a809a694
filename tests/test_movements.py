"""Stock movements between PostgreSQL and Redis, with a fault at each step."""

import uuid
from dataclasses import replace
from threading import Thread

import psycopg
import pytest
import redis
from django.conf import settings
from django.db import connection, transaction

from shop import keys, movements, stock
from shop.domain import Status
from shop.fulfilment import fulfil
from shop.movements import KeyReused, Movement
from shop.stores import StoreUnavailable
from tests.builders import (
    a_sku,
    accepted,
    an_order,
    assert_at_rest,
    at_once,
    free_in_redis,
    somebody_waits_for_us,
    wait_until,
)


def move(
    client: "redis.Redis", sku: str, delta: int, request: str | None = None, *ids_before: str
) -> movements.Outcome:
    """Move stock under a request id, which may have been others before."""
    request = request or str(uuid.uuid4())
    return movements.move(
        client=client,
        request=request,
        ids_before=ids_before,
        by="shop",
        sku=sku,
        delta=delta,
        reason="count",
    )


def test_a_movement_that_can_t_be_written_takes_nothing_and_refuses_no_order(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    stock.refresh(client, [sku])
    with psycopg.connect(settings.DATABASE_URL) as somebody:
        somebody.execute("SELECT 1 FROM shop_product WHERE sku = %s FOR UPDATE", [sku])
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = 100")
        with pytest.raises(StoreUnavailable):  # which opens a new connection
            move(client, sku, -9)
    (order,) = accepted(client, an_order((sku, 10)))

    assert fulfil([order], client=client) == {order.id: Status.CONFIRMED}
    assert_at_rest(client)


def test_a_movement_waits_for_no_lock_of_an_order(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    client.set(keys.lock(sku), "an order", px=5000)

    outcome = move(client, sku, -4)

    assert isinstance(outcome, movements.Movement)
    assert (outcome.available, free_in_redis(client, sku)) == (6, 6)


def test_a_movement_takes_nothing_that_is_confirmed(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    fulfil(accepted(client, an_order((sku, 7))), client=client)

    assert move(client, sku, -4) == movements.Insufficient(3)
    assert_at_rest(client)


@pytest.mark.parametrize("round_", range(10))
def test_copies_of_one_withdrawal_of_everything_all_hear_that_it_was_made(
    client: "redis.Redis", round_: int
) -> None:
    sku, request = a_sku(stock=5), str(uuid.uuid4())
    stock.refresh(client, [sku])

    outcomes = at_once(*(lambda: move(client, sku, -5, request) for _ in range(4)))

    assert [type(outcome) for outcome in outcomes] == [movements.Movement] * 4
    assert free_in_redis(client, sku) == 0
    assert_at_rest(client)


# --- one key, several ids ------------------------------------------------------------------------------


@pytest.mark.usefixtures("locks")
@pytest.mark.parametrize("delta", [5, -5])
def test_a_movement_is_found_under_an_id_that_its_key_had_before(client: "redis.Redis", delta: int) -> None:
    sku, old, new = a_sku(stock=5), str(uuid.uuid4()), str(uuid.uuid4())
    first = move(client, sku, delta, old)

    again = move(client, sku, delta, new, str(uuid.uuid4()), old)
    other = move(client, sku, delta + 1, new, old)

    assert isinstance(first, Movement)
    assert again == replace(first, fresh=False)
    assert isinstance(other, KeyReused)
    assert free_in_redis(client, sku) == 5 + delta
    assert_at_rest(client)


@pytest.mark.parametrize("delta", [5, -5])
def test_copies_of_a_movement_under_two_ids_take_turns_and_count_once(
    client: "redis.Redis", delta: int
) -> None:
    sku, old, new = a_sku(stock=10), str(uuid.uuid4()), str(uuid.uuid4())
    stock.refresh(client, [sku])
    outcomes: list[object] = []
    copy = Thread(target=lambda: outcomes.extend(at_once(lambda: move(client, sku, delta, new, old))))

    with transaction.atomic():
        asked = movements.Asked(ids=(old, new), by="shop", sku=sku, delta=delta, reason="count")
        movements._row_of(asked, "")
        copy.start()
        wait_until(somebody_waits_for_us)
    copy.join()

    (outcome,) = outcomes
    assert isinstance(outcome, Movement)
    assert (outcome.id, outcome.fresh) == (old, False)
    assert free_in_redis(client, sku) == 10 + delta
    assert_at_rest(client)
