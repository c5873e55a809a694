"""Workers that meet, in every order of their calls to Redis and PostgreSQL that can make a difference (`tests.stories`).

Where a safeguard is missing, the same search has to find an order that ends badly: else it has not searched.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import redis

from shop import fulfilment, keys, movements, stock
from shop.domain import Order
from shop.fulfilment import Rules
from tests import stock_stories, stories
from tests.interleaving import Search, Tell, as_for_processes
from tests.stories import LOCKS, NO_LOCKS
from tests.test_controls import books_wiped_afterwards, switched_off  # noqa: F401 - fixtures

with_and_without_locks = pytest.mark.parametrize("rules", [LOCKS, NO_LOCKS], ids=["locks", "no locks"])


@pytest.fixture
def search(
    client: "redis.Redis", caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Search]:
    """Tells stories in every order of calls."""
    as_for_processes(monkeypatch)
    searching = Search(client, caplog)
    yield searching
    searching.close()


def title(tell: Any) -> str:
    """`one_order_for_two_workers`, with what it is told with."""
    told_with = "".join(
        f" {name} {value}" for name, value in getattr(tell, "keywords", {}).items() if name != "rules"
    )
    return getattr(tell, "func", tell).__name__.replace("_", " ") + told_with


@with_and_without_locks
@pytest.mark.parametrize(
    "tell",
    [
        stories.two_orders_for_eight_of_ten,
        stories.two_skus_in_opposite_order,
        stories.one_order_for_two_workers,
        stories.without_postgresql_for_a_moment,
        stories.taken_away_while_sold,
        stories.delivered_while_sold,
    ],
    ids=title,
)
def test_in_every_order_of_calls_it_ends_well_and_does_not_need_the_locks(
    search: Search, monkeypatch: pytest.MonkeyPatch, tell: Callable[..., stories.Story], rules: Rules
) -> None:
    if rules is NO_LOCKS:
        monkeypatch.setattr(stock, "locks", lambda *_, **__: nullcontext())

    search(partial(tell, rules=rules)).assert_holds()


@pytest.mark.usefixtures("locks")
@pytest.mark.parametrize(
    "tell",
    [
        stock_stories.cancelled_while_another_is_sold,
        partial(stock_stories.moved_while_cancelled, delta=5),
        partial(stock_stories.moved_while_cancelled, delta=-5),
        partial(stock_stories.two_movements, deltas=(-8, -8)),
        partial(stock_stories.two_movements, deltas=(-3, -4)),
        partial(stock_stories.two_movements, deltas=(-12, 5)),
    ],
    ids=title,
)
def test_in_every_order_of_calls_stock_that_moves_is_neither_made_nor_lost(
    search: Search, tell: Tell
) -> None:
    search(tell).assert_holds()


@pytest.mark.parametrize(
    "tell",
    [
        stories.one_decision_settled_twice,
        stories.given_up_but_alive,
        stories.a_lock_that_ran_out,
        partial(stories.cancelled_while_fulfilled, wanted=8),
        partial(stories.cancelled_while_fulfilled, wanted=12),
        partial(stories.cancelled_while_fulfilled, wanted=8, swept=True),
        stories.cancelled_by_two_workers,
        stories.looked_at_all_the_time,
        partial(stories.taken_away_while_sold, rules=NO_LOCKS, swept=True),
        stories.delivered_and_brought_along,
        partial(stories.one_movement_asked_for_twice, delta=5),
        partial(stories.one_movement_asked_for_twice, delta=-5),
        stories.loaded_while_sold,
        stories.loaded_while_taken_away,
        stories.loaded_twice_while_confirmed,
        stories.loaded_while_given_up,
        stories.loaded_while_cancelled,
        stories.lost_while_sold,
    ],
    ids=title,
)
def test_in_every_order_of_calls_it_ends_well(search: Search, tell: Tell) -> None:
    search(tell).assert_holds()


def test_the_search_tries_the_calls_to_each_store_in_every_order(search: Search) -> None:
    search(partial(stories.two_orders_for_eight_of_ten, rules=NO_LOCKS))

    in_redis = {", ".join(call for call in told.split(", ") if "persist" not in call) for told in search.told}
    in_the_books = {told.index("0 persist") < told.index("1 persist") for told in search.told}

    assert in_redis == {
        "0 reserve, 0 settle, 1 reserve, 1 settle",
        "0 reserve, 1 reserve, 0 settle, 1 settle",
        "0 reserve, 1 reserve, 1 settle, 0 settle",
        "1 reserve, 0 reserve, 0 settle, 1 settle",
        "1 reserve, 0 reserve, 1 settle, 0 settle",
        "1 reserve, 1 settle, 0 reserve, 0 settle",
    }
    assert in_the_books == {True, False}


def test_the_search_tries_the_same_orders_each_time(search: Search) -> None:
    search(stories.one_decision_settled_twice)
    once = list(search.told)

    search(stories.one_decision_settled_twice)

    assert len(set(once)) > 10
    assert search.told[len(once) :] == once


# --- negative controls ----------------------------------------------------------------------------

CONTROLS: list[tuple[str, str, str, str, Tell]] = [
    (
        "a lock is released only by its holder",
        "settle.lua",
        "if holder == ARGV[from + 2 * n - 1] then",
        "if true then",
        stories.a_lock_that_ran_out,
    ),
    (
        "what is not spent is given back",
        "settle.lua",
        """#counted + 4) == '["' .. counted .. '",'""",
        "#counted + 4) ~= ''",
        stories.given_up_but_alive,
    ),
    (
        "a state never goes back",
        "settle.lua",
        "if not open and not (was == 'confirmed' and status == 'cancelled') then return {'kept', was} end",
        "",
        partial(stories.cancelled_while_fulfilled, wanted=8),
    ),
    (
        "a reservation is taken once",
        "reserve.lua",
        "held and 0 or last",
        "last",
        partial(stories.one_order_for_two_workers, rules=NO_LOCKS),
    ),
    (
        "a load begins again when a reservation ended under it",
        "finish_load.lua",
        "if not held or cjson.decode(held)[1] ~= ARGV[at + 1] then return 'changed' end",
        "",
        stories.loaded_while_given_up,
    ),
    (
        "a load begins again when the level changed under it",
        "sync_level.lua",
        "  call('DEL', KEYS[1], KEYS[2])\n  return 'not_loaded'\nend\nlocal version",
        "  return 'not_loaded'\nend\nlocal version",
        stories.loaded_while_cancelled,
    ),
    (
        "a load whose mark is gone is void",
        "finish_load.lua",
        "if call('HGET', KEYS[2], 'loading') ~= ARGV[1] then return 'changed' end",
        "",
        stories.loaded_while_cancelled,
    ),
    (
        "an older stock level changes nothing",
        "sync_level.lua",
        "if tonumber(version) >= tonumber(ARGV[1]) then return 'current' end",
        "",
        stories.delivered_and_brought_along,
    ),
    (
        "a withdrawal is part of its level",
        "sync_level.lua",
        "if free_of(counter) then call('INCRBY', counter, held[4]) end",
        "",
        partial(stock_stories.two_movements, deltas=(-3, -4)),
    ),
]


@pytest.mark.parametrize(
    ("where", "guard", "instead", "tell"), [row[1:] for row in CONTROLS], ids=[row[0] for row in CONTROLS]
)
def test_without_its_safeguard_an_order_of_calls_is_found_that_ends_badly(
    search: Search,
    switched_off: Callable[[str, str, str], None],  # noqa: F811 - the fixture
    where: str,
    guard: str,
    instead: str,
    tell: Tell,
) -> None:
    switched_off(where, guard, instead)

    assert search(tell).property_holds is False


def test_reserving_without_a_script_is_found_to_promise_units_twice(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reserve_call_by_call(orders: list[Order], client: "redis.Redis", rules: Rules) -> list[list[Any]]:
        (order,), (line,) = orders, orders[0].lines
        free = int(client.get(keys.stock(line.sku)) or 0)
        if free < line.quantity:
            return [["short", line.sku, free]]
        client.decrby(keys.stock(line.sku), line.quantity)
        client.hset(keys.RESERVATIONS, order.id, json.dumps(["token", "0", line.sku, str(line.quantity)]))
        return [["reserved", "token", order.id]]

    monkeypatch.setattr(fulfilment, "_run_reserve", reserve_call_by_call)

    result = search(partial(stories.two_orders_for_eight_of_ten, rules=NO_LOCKS))

    assert result.property_holds is False
    assert "books refused an order that Redis had reserved" in str(result.explanation)


def test_taking_stock_away_without_a_reservation_is_found_to_take_what_is_promised(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movements, "_withdraw", lambda *_: None)

    result = search(partial(stories.taken_away_while_sold, rules=NO_LOCKS))

    assert result.property_holds is False
