"""Stock movements between PostgreSQL and Redis, with a fault at each step."""

import uuid
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest
import redis
from django.db import transaction

from shop import movements, stock
from shop.movements import KeyReused, Movement
from shop.stores import StoreUnavailable
from tests.builders import a_sku, assert_at_rest, at_once, free_in_redis, somebody_waits_for_us, wait_until


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


@pytest.mark.usefixtures("locks")
def test_a_load_between_the_books_and_redis_counts_a_withdrawal_once(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=10)
    stock.load(client, [sku])
    sync_levels = stock.sync_levels

    def sync_after_a_load(*args: Any, **kwargs: Any) -> None:
        stock.unload(client, [sku])
        stock.load(client, [sku])
        sync_levels(*args, **kwargs)

    monkeypatch.setattr(stock, "sync_levels", sync_after_a_load)

    move(client, sku, -4)

    assert free_in_redis(client, sku) == 6
    assert_at_rest(client)


@pytest.mark.usefixtures("locks")
def test_a_key_whose_withdrawal_died_moves_no_units_between_skus(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, request = a_sku(stock=10), a_sku(stock=10), str(uuid.uuid4())
    stock.load(client, [first, second])
    with monkeypatch.context() as fault:
        rows = movements.rows

        def die(name: str, **parameters: Any) -> Any:
            if name == "move":
                raise StoreUnavailable("PostgreSQL: gone")
            return rows(name, **parameters)

        fault.setattr(movements, "rows", die)
        with pytest.raises(StoreUnavailable):
            move(client, first, -5, request)

    move(client, second, +1, request)

    assert (free_in_redis(client, first), free_in_redis(client, second)) == (10, 11)
    assert_at_rest(client)


@pytest.mark.usefixtures("locks")
@pytest.mark.parametrize("round_", range(10))
def test_copies_of_one_withdrawal_of_everything_all_hear_that_it_was_made(
    client: "redis.Redis", round_: int
) -> None:
    sku, request = a_sku(stock=5), str(uuid.uuid4())
    stock.load(client, [sku])

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
    stock.load(client, [sku])
    outcomes: list[object] = []
    copy = Thread(target=lambda: outcomes.extend(at_once(lambda: move(client, sku, delta, new, old))))

    with transaction.atomic():
        movements._row_of(movements._Asked(ids=(old, new), by="shop", sku=sku, delta=delta, reason="count"))
        copy.start()
        wait_until(somebody_waits_for_us)
    copy.join()

    (outcome,) = outcomes
    assert isinstance(outcome, Movement)
    assert (outcome.id, outcome.fresh) == (old, False)
    assert free_in_redis(client, sku) == 10 + delta
    assert_at_rest(client)
