"""Workers that meet, in every order of their calls to Redis and PostgreSQL that can make a difference (`tests.stories`).

Where a safeguard is missing, the same search has to find an order that ends badly: else it has not searched.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis

from shop import fulfilment
from shop.books import Intent, Question
from shop.domain import Order
from shop.fulfilment import Rules
from tests import stock_stories, stories
from tests.interleaving import Search, Tell, as_for_processes
from tests.stories import LOCKS, NO_LOCKS
from tests.test_controls import books_wiped_afterwards, switched_off  # noqa: F401 - fixtures


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


STORIES: list[Callable[..., stories.Story]] = [
    stories.two_orders_for_eight_of_ten,
    stories.two_skus_in_opposite_order,
    stories.without_postgresql_for_a_moment,
    stories.one_order_for_two_workers,
    stories.taken_away_while_sold,
    stories.delivered_while_sold,
]


@pytest.mark.parametrize(
    ("tell", "rules"),
    [
        *(pytest.param(tell, NO_LOCKS, id=f"{title(tell)}-no locks") for tell in STORIES),
        *(pytest.param(tell, LOCKS, id=f"{title(tell)}-locks") for tell in STORIES[:3]),
        # Locks only take orders of calls away.
        *(
            pytest.param(tell, LOCKS, id=f"{title(tell)}-locks", marks=pytest.mark.depth)
            for tell in STORIES[3:]
        ),
    ],
)
def test_in_every_order_of_calls_it_ends_well_and_does_not_need_the_locks(
    search: Search, tell: Callable[..., stories.Story], rules: Rules
) -> None:
    search(partial(tell, rules=rules)).assert_holds()


@pytest.mark.parametrize(
    "locks", ["without locks", pytest.param("with locks", marks=pytest.mark.depth)], indirect=True
)
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
        stories.delivered_and_published,
        partial(stories.one_movement_asked_for_twice, delta=5),
        partial(stories.one_movement_asked_for_twice, delta=-5),
        stories.published_while_sold,
        stories.published_while_cancelled,
        stories.taken_over_from_one_that_died,
        stories.lost_while_sold,
    ],
    ids=title,
)
def test_in_every_order_of_calls_it_ends_well(search: Search, tell: Tell) -> None:
    search(tell).assert_holds()


def test_the_search_tries_the_calls_to_each_store_in_every_order(search: Search) -> None:
    search(partial(stories.two_orders_for_eight_of_ten, rules=NO_LOCKS))

    in_redis = {", ".join(call for call in told.split(", ") if "decide" not in call) for told in search.told}
    in_the_books = {told.index("0 decide") < told.index("1 decide") for told in search.told}

    # More calls are of orders that reserve again, because PostgreSQL had not decided about the other one yet.
    assert {calls for calls in in_redis if calls.count("reserve") == 2} == {
        "0 reserve, 0 settle, 1 reserve, 1 settle",
        "0 reserve, 1 reserve, 0 settle, 1 settle",
        "0 reserve, 1 reserve, 1 settle, 0 settle",
        "1 reserve, 0 reserve, 0 settle, 1 settle",
        "1 reserve, 0 reserve, 1 settle, 0 settle",
        "1 reserve, 1 settle, 0 reserve, 0 settle",
    }
    assert in_the_books == {True, False}


def test_the_search_tries_the_same_orders_each_time(search: Search) -> None:
    tell = partial(stories.cancelled_while_fulfilled, wanted=8)
    search(tell)
    once = list(search.told)

    search(tell)

    assert len(set(once)) > 10
    assert search.told[len(once) :] == once


# --- negative controls ----------------------------------------------------------------------------

CONTROLS: list[tuple[str, str, str, str, Tell]] = [
    (
        "a lock is released only by its holder",
        "settle.lua",
        "if owner ~= '' and found[n + 1] == owner then",
        "if owner ~= '' then",
        stories.a_lock_that_ran_out,
    ),
    (
        "a state never goes back",
        "settle.lua",
        "if not open and not (was == 'confirmed' and status == 'cancelled') then return {'kept', was} end",
        "",
        partial(stories.cancelled_while_fulfilled, wanted=8),
    ),
    (
        "an older version changes no counter",
        "settle.lua",
        "return of == epoch and tonumber(number) > tonumber(version)",
        "return false",
        stories.delivered_and_published,
    ),
    (
        "an older version changes no counter",
        "settle.lua",
        "return of == epoch and tonumber(number) > tonumber(version)",
        "return false",
        stories.published_while_cancelled,
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


def test_refusing_by_the_counter_alone_is_found_to_refuse_what_there_is(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The units of the worker that died are off the counter, and nobody has bought them."""
    reserve = fulfilment._must_ask_again

    def believe_redis(order: Order, reply: list[Any], batch: Any, *rest: Any) -> bool:
        if reply == ["short"]:
            batch.questions.append(Question(order=order, intent=Intent.REJECTED))
            return False
        return reserve(order, reply, batch, *rest)

    monkeypatch.setattr(fulfilment, "_must_ask_again", believe_redis)

    result = search(stories.taken_over_from_one_that_died)

    assert result.property_holds is False
