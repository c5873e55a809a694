"""Clocks of web processes, workers, the scheduler and Redis that differ by hours, or are set back: what depends on them."""

import time
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from django.conf import settings

import tasks.maintenance
from shop import keys, queue, sweeper
from shop.domain import Status
from shop.fulfilment import fulfil
from shop.models import Order as OrderRow
from shop.results import OrderState
from shop.web.orders import _answer
from tests.builders import a_sku, accepted, an_order, assert_at_rest, free_in_redis, status_in_redis
from tests.test_lua import accept
from workers.app import app

HOURS_MS = 5 * 3_600_000


def now_ms() -> int:
    """This moment, in Unix milliseconds."""
    return int(time.time() * 1000)


@pytest.fixture
def by_ms(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the clock of this process by so many milliseconds; call it again to set it anew."""
    real = time.time

    def set_by(difference_ms: int) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + difference_ms / 1000)

    return set_by


# --- rate limit: Redis's clock alone --------------------------------------------------------------


def test_web_processes_whose_clocks_differ_share_one_bucket(client: "redis.Redis") -> None:
    clocks = [1_000_000, 1_000_000 + HOURS_MS, 1_000_000 - HOURS_MS]

    replies = [accept(client, order=f"o{n}", key=f"{n}", rate=5, now=clocks[n % 3]) for n in range(9)]

    assert [reply[0] for reply in replies] == ["accepted"] * 5 + ["rate_limited"] * 4
    assert all(0 < wait_ms <= 200 for _, wait_ms in replies[5:])


def test_a_bucket_that_a_clock_filled_for_hours_counts_as_full(client: "redis.Redis") -> None:
    client.set(keys.rate("shop"), "0.000", px=HOURS_MS)

    assert accept(client, rate=5) == ["accepted"]
    assert client.pttl(keys.rate("shop")) <= 200


# --- the sweeper ----------------------------------------------------------------------------------


def sweep_at(client: "redis.Redis", moment_ms: int) -> int:
    """The sweeps of a worker until so many orders were found that nobody worked on; how many."""
    sweeper.mind_clocks(client, moment_ms)
    later_ms = moment_ms + 20_000 + sweeper.CLOCK_SLACK_MS
    return sweeper.enqueue_due(client, later_ms)


def test_a_lost_order_of_a_web_process_whose_clock_is_ahead_is_found_in_time(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(), 1)))
    client.zadd(keys.OPEN_ORDERS, {order.id: now_ms() + HOURS_MS})

    assert sweep_at(client, now_ms()) == 1


def test_a_lost_order_is_found_in_time_after_the_sweeper_s_clock_was_set_back(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(), 1)))
    sweep_at(client, now_ms() + HOURS_MS)
    client.delete(keys.ORDER_QUEUE)

    assert sweep_at(client, now_ms()) == 1
    assert status_in_redis(client, order) == "queued"


def test_an_order_that_is_in_time_is_not_touched(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(), 1)))
    due = client.zscore(keys.OPEN_ORDERS, order.id)

    sweeper.mind_clocks(client, now_ms())

    assert client.zscore(keys.OPEN_ORDERS, order.id) == due


def test_a_lost_cancellation_of_a_web_process_whose_clock_is_ahead_is_carried_out(
    client: "redis.Redis",
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 4)))
    fulfil([order], client=client)
    client.zadd(keys.CANCELLATIONS, {order.id: now_ms() + HOURS_MS})

    sweeper.mind_clocks(client, now_ms())
    sweeper.cancel_overdue(client, now_ms() + sweeper.CANCEL_AFTER_MS + 1)

    assert (status_in_redis(client, order), free_in_redis(client, sku)) == ("cancelled", 10)
    assert_at_rest(client)


# --- workers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference_ms", [HOURS_MS, -HOURS_MS])
def test_an_order_is_fulfilled_by_a_worker_whose_clock_is_hours_off(
    client: "redis.Redis", by_ms: Any, difference_ms: int
) -> None:
    sku = a_sku(stock=10)
    orders = accepted(client, an_order((sku, 4)), an_order((sku, 20)))
    by_ms(difference_ms)

    outcomes = fulfil(orders, client=client)
    by_ms(0)

    assert list(outcomes.values()) == [Status.CONFIRMED, Status.REJECTED]
    assert client.ttl(keys.order(orders[0].id)) <= settings.ENDED_ORDERS_KEPT_S
    assert free_in_redis(client, sku) == 6
    assert_at_rest(client)


def test_no_client_reads_that_an_order_ended_before_it_began(client: "redis.Redis", by_ms: Any) -> None:
    (order,) = accepted(client, an_order((a_sku(), 1)))
    by_ms(-HOURS_MS)
    fulfil([order], client=client)
    ended_ms = round(OrderRow.objects.get(id=order.id).updated_at.timestamp() * 1000)

    told = _answer(OrderState(order=order, status=Status.CONFIRMED, reason=None, updated_at_ms=ended_ms))

    assert ended_ms < order.accepted_at_ms
    assert told.updated_at == told.created_at


# --- the scheduler --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(app.conf.beat_schedule))
def test_housekeeping_of_a_scheduler_whose_clock_is_behind_is_done(name: str) -> None:
    """Celery throws away what its own clock calls expired."""
    entry = app.conf.beat_schedule[name]
    asked_at = app.now() - timedelta(milliseconds=HOURS_MS)

    message = app.amqp.as_task_v2("id", entry["task"], now=asked_at, expires=entry["options"]["expires"])

    assert datetime.fromisoformat(message.headers["expires"]) > app.now()


def test_sweeps_that_piled_up_are_done_once(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(), 1)))

    def overdue() -> int:
        client.zadd(keys.OPEN_ORDERS, {order.id: 1})
        client.delete(keys.ORDER_QUEUE)
        return int(tasks.maintenance.sweep().get("enqueued", 0))

    done = [overdue() for _ in range(3)]
    client.delete(keys.SWEEPER_HEARTBEAT)

    assert [*done, overdue()] == [1, 0, 0, 1]


def test_comparisons_that_piled_up_are_done_once(client: "redis.Redis", by_ms: Any) -> None:
    done = [tasks.maintenance.reconcile() for _ in range(2)]
    by_ms(60_000)
    later = tasks.maintenance.reconcile()
    by_ms(-HOURS_MS)
    set_back = tasks.maintenance.reconcile()

    assert [text == "done just now" for text in (*done, later, set_back)] == [False, True, False, False]
    assert queue.BROKER_IS_LEDGER
