"""What happens is counted, by all processes together; a figure may get lost, and no order is lost or late for one."""

import json
import os
import threading
import time

import pytest
import redis

from shop import figures, fulfilment, intake, keys
from shop.domain import Status
from shop.figures import ASKED, BUSY, ENDED, INTAKE, ORDER_MS, SOLD, Histogram, Tally
from tests.builders import a_sku, accepted, an_order, wait_until
from tests.running import frozen
from tests.test_web_stores import in_a_web_process
from workers.embedded import RedisServer

SMALL = Histogram(name="small", unit="ms", bounds=(10, 20, 40))


@pytest.fixture
def nothing_counted(client: "redis.Redis") -> "redis.Redis":
    """An empty Redis, and nothing left over from the tests before that this process would tell it."""
    figures.tally.tell()
    client.flushdb()
    return client


def of_the_last_seconds(client: "redis.Redis") -> dict[str, int]:
    """The sums over the last seconds."""
    now = client.time()[0]
    sums: dict[str, int] = {}
    for second in figures.of_seconds(client, range(now - 60, now + 1)):
        for name, amount in second.items():
            if name != figures.OPEN:
                sums[name] = sums.get(name, 0) + amount
    return sums


def test_what_is_counted_stands_in_the_totals_and_in_its_second(nothing_counted: "redis.Redis") -> None:
    tally = Tally()
    tally.add("a")
    tally.add_all({"a": 2, "b": 5})
    tally.tell()

    assert figures.totals(nothing_counted) == {"a": 3, "b": 5}
    assert of_the_last_seconds(nothing_counted) == {"a": 3, "b": 5}


def test_how_many_orders_are_open_is_noted_with_the_second(nothing_counted: "redis.Redis") -> None:
    accepted(nothing_counted, *(an_order((a_sku(), 1)) for _ in range(3)))
    figures.tally.tell()
    tally = Tally()
    tally.add("a")
    tally.tell()

    now = nothing_counted.time()[0]
    noted = [
        second[figures.OPEN]
        for second in figures.of_seconds(nothing_counted, range(now - 3, now + 1))
        if second
    ]
    assert noted == [3]
    assert figures.OPEN not in figures.totals(nothing_counted)


def test_what_was_counted_is_told_within_a_second_or_so_and_once(nothing_counted: "redis.Redis") -> None:
    tally = Tally()
    tally.add("a")

    wait_until(lambda: figures.totals(nothing_counted) == {"a": 1}, timeout_s=5)
    tally.tell()
    assert figures.totals(nothing_counted) == {"a": 1}


def test_threads_that_count_at_the_same_time_lose_nothing(nothing_counted: "redis.Redis") -> None:
    tally = Tally()

    def count() -> None:
        for _ in range(2_000):
            tally.add("a")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        tally.tell()
    tally.tell()

    assert figures.totals(nothing_counted) == {"a": 8_000}


def test_a_process_that_was_forked_tells_only_what_it_counted_itself(nothing_counted: "redis.Redis") -> None:
    figures.tally.add("before")
    child = os.fork()
    if child == 0:
        figures.tally.add("in the child")
        figures.tally.tell()
        os._exit(0)
    os.waitpid(child, 0)
    figures.tally.tell()

    assert figures.totals(nothing_counted) == {"before": 1, "in the child": 1}


def test_of_a_large_catalogue_the_first_in_each_ranking_are_told(nothing_counted: "redis.Redis") -> None:
    tally = Tally()
    tally.rank(SOLD, {f"SKU {number}": number for number in range(1, 1_000)})
    tally.rank(BUSY, {"SKU 7": 3})
    tally.tell()

    minute = nothing_counted.time()[0] // 60
    hottest = figures.hottest(nothing_counted, [minute - 1, minute])
    assert hottest[SOLD].most_common(2) == [("SKU 999", 999), ("SKU 998", 998)]
    assert len(hottest[SOLD]) == figures.RANKED
    assert (hottest[BUSY], hottest[ASKED]) == ({"SKU 7": 3}, {})


def test_figures_of_a_redis_that_is_away_are_told_when_it_is_back(
    nothing_counted: "redis.Redis", redis_server: RedisServer
) -> None:
    tally = Tally()
    with frozen(redis_server.pid):
        tally.add("a")
        tally.tell()

    tally.tell()
    assert figures.totals(nothing_counted) == {"a": 1}


def test_orders_are_fulfilled_where_the_figures_cannot_be_kept(nothing_counted: "redis.Redis") -> None:
    nothing_counted.set(keys.FIGURES, "not a hash")
    sku = a_sku(stock=10)
    order, other = accepted(nothing_counted, an_order((sku, 8)), an_order((sku, 8)))

    outcomes = fulfilment.fulfil([order, other], client=nothing_counted)
    figures.tally.tell()

    assert list(outcomes.values()) == [Status.CONFIRMED, Status.REJECTED]
    assert not nothing_counted.exists(keys.FIGURES), "what is broken gives way to the next figures"


# --- what an order leaves behind ------------------------------------------------------------------


def test_each_end_is_counted_once_with_its_reason_its_time_and_its_units(
    nothing_counted: "redis.Redis",
) -> None:
    hot, other = a_sku(stock=10), a_sku(stock=None)
    orders = accepted(
        nothing_counted, an_order((hot, 8)), an_order((hot, 8)), an_order((other, 1)), an_order((hot, 1))
    )
    for _ in range(2):  # a message that comes twice
        fulfilment.fulfil(orders, client=nothing_counted)
    figures.tally.tell()

    counted = figures.totals(nothing_counted)
    assert {name: times for name, times in counted.items() if name.startswith(ENDED)} == {
        "ended:confirmed:": 2,
        "ended:rejected:insufficient_stock": 1,
        "ended:rejected:unknown_sku": 1,
    }
    assert sum(ORDER_MS.counts(counted)) == 4
    assert counted[figures.UNITS_SOLD] == 9
    assert counted["batch:4"] == 2
    minute = nothing_counted.time()[0] // 60
    hottest = figures.hottest(nothing_counted, [minute - 1, minute])
    assert (hottest[ASKED], hottest[SOLD]) == ({hot: 17, other: 1}, {hot: 9})


def test_an_order_that_is_cancelled_afterwards_has_two_ends_and_one_time(
    nothing_counted: "redis.Redis",
) -> None:
    (order,) = accepted(nothing_counted, an_order((a_sku(), 1)))
    fulfilment.fulfil([order], client=nothing_counted)
    fulfilment.cancel(order.id, client=nothing_counted)
    fulfilment.cancel(order.id, client=nothing_counted)
    figures.tally.tell()

    counted = figures.totals(nothing_counted)
    assert (counted["ended:confirmed:"], counted["ended:cancelled:"]) == (1, 1)
    assert sum(ORDER_MS.counts(counted)) == 1


def test_an_order_behind_a_foreign_lock_is_counted_as_waiting_for_that_sku(
    nothing_counted: "redis.Redis",
) -> None:
    sku = a_sku()
    (order,) = accepted(nothing_counted, an_order((sku, 1)))
    nothing_counted.set(keys.lock(sku), "somebody", px=60_000)

    fulfilment.fulfil([order], client=nothing_counted)
    figures.tally.tell()

    minute = nothing_counted.time()[0] // 60
    assert figures.totals(nothing_counted)[figures.LOCK_WAITS] == 1
    assert figures.hottest(nothing_counted, [minute - 1, minute])[BUSY] == {sku: 1}


def test_an_order_is_counted_by_what_became_of_it_at_the_door(nothing_counted: "redis.Redis") -> None:
    order = an_order((a_sku(), 1), key="one key")
    other = an_order((a_sku(), 2), key="one key")

    async def place() -> None:
        for each in (order, order, other):
            await intake.accept(each, "one key", time.monotonic() + 5)

    in_a_web_process(place)
    figures.tally.tell()

    counted = figures.totals(nothing_counted)
    assert {name: times for name, times in counted.items() if name.startswith(INTAKE)} == {
        "intake:accepted": 1,
        "intake:replayed": 1,
        "intake:reused": 1,
    }
    assert json.loads(nothing_counted.lrange(keys.ORDER_QUEUE, 0, -1)[0])["headers"]["id"] == order.id


# --- histograms -----------------------------------------------------------------------------------


def test_a_value_falls_into_the_range_that_ends_with_it() -> None:
    counted = SMALL.counted([0, 10, 11, 20, 40, 41, 9_999])

    assert SMALL.counts(counted) == [2, 2, 1, 2]
    assert SMALL.total(counted) == 10 + 11 + 20 + 40 + 41 + 9_999


@pytest.mark.parametrize(
    ("values", "share", "told"),
    [
        ([], 0.5, None),
        ([15] * 10, 0.5, 15.0),
        ([5] * 9 + [30], 0.99, 38.0),
        ([5] * 5 + [15] * 5, 0.5, 10.0),
        ([99], 0.99, 40.0),
        ([5, 99], 0.5, 10.0),
    ],
)
def test_a_quantile_is_read_between_two_bounds(values: list[int], share: float, told: float | None) -> None:
    assert SMALL.quantile(share, SMALL.counted(values)) == (told if told is None else pytest.approx(told))
