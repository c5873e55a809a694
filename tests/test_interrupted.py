"""An order's way, interrupted at each fail point: whoever dies, fails, dawdles or freezes there, the end is exact."""

import json
import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from urllib.parse import quote

import pytest
from django.core.management import call_command

from shop import keys
from shop.models import Order as OrderRow
from shop.models import Product, StockMovement
from shop.stores import redis_client
from tests.builders import (
    a_sku,
    accepted,
    an_order,
    free_in_redis,
    status_in_redis,
    wait_until,
)
from tests.failing import (
    FailPoints,
    Placed,
    assert_left,
    ends,
    housekeeping,
    interrupted,
    on_sale,
    placed,
    started_again,
)
from tests.running import Answer, System, manage

IN_THE_WORKER = [
    "worker.received",
    "worker.before_reserve",
    "worker.after_reserve",
    "worker.before_commit",
    "worker.after_commit",
    "worker.before_settle",
    "worker.after_settle",
]
dies_or_fails = pytest.mark.parametrize("action", ["kill", "raise"])


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> FailPoints:
    """The fail points of the module's system."""
    return FailPoints(tmp_path_factory.mktemp("fail-points"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, points: FailPoints) -> Iterator[System]:
    """A system that can be told to fail."""
    redis_client().flushdb()
    env = {"FAIL_POINTS": str(points.folder)}
    with System(tmp_path_factory.mktemp("interrupted"), env=env) as running:
        yield running.start()


# --- before a worker acknowledges: begun first, because Redis needs 15 s to deliver again what is unacknowledged ----------


@dataclass(frozen=True, kw_only=True)
class Unacknowledged:
    """Orders that ended, whose messages were never acknowledged: their worker stumbled, then it was killed, over them."""

    sku: str
    orders: list[Placed]
    messages: set[str]


@pytest.fixture(scope="module")
def unacknowledged(system: System, points: FailPoints) -> Unacknowledged:
    """A worker that fails to acknowledge, and one that is killed before it does."""
    sku = on_sale(10)
    with points.armed("worker.before_acknowledge", "raise"):
        orders = [placed(system, sku, 1)]
    orders.append(placed(system, sku, 2))
    # Sooner than its message would come again: the worker goes on.
    assert system.end_of(orders[-1].id, timeout_s=8).body["status"] == "confirmed"
    with points.armed("worker.before_acknowledge", "kill"):
        orders.append(placed(system, sku, 3))
    # One that a worker began with as soon as it saw it may still be on the queue.
    on_queue = redis_client().lrange(keys.ORDER_QUEUE, 0, -1)
    messages = set(redis_client().hkeys("unacked"))
    messages |= {json.loads(message)["properties"]["delivery_tag"] for message in on_queue}
    started_again(system, "worker")
    return Unacknowledged(sku=sku, orders=orders, messages=messages)


def test_a_worker_that_dies_or_fails_before_it_acknowledges_has_done_its_work(
    system: System, unacknowledged: Unacknowledged
) -> None:
    assert len(unacknowledged.messages) >= 2
    assert ends(system, *unacknowledged.orders) == ["confirmed"] * 3
    assert_left(unacknowledged.sku, 4)


# --- controls -------------------------------------------------------------------------------------


def test_a_system_that_can_be_told_to_fail_says_so_and_works_as_long_as_nothing_is_armed(
    system: System, points: FailPoints
) -> None:
    before = points.hits()
    order = placed(system, sku := on_sale(10), 8)

    assert ends(system, order) == ["confirmed"]
    assert_left(sku, 2)
    assert points.hits() == before
    for name in ("web", "worker", "scheduler"):
        assert "FAIL POINTS ARE SWITCHED ON" in system.log(name)


def test_a_point_that_nobody_reaches_is_noticed(system: System, points: FailPoints) -> None:
    order = placed(system, on_sale(0), 1)

    with (
        pytest.raises(AssertionError, match=r"somebody reaching cancel\.after_books"),
        points.armed("cancel.after_books", "kill", within_s=0.5),
    ):
        ends(system, order)
    (points.folder / "cancel.after_books").unlink()


# --- the worker -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "action"),
    [
        *((point, action) for point in IN_THE_WORKER for action in ("raise", "delay 300")),
        # Celery needs 4 s to notice; the test below kills at the other points, and over orders that go alone.
        *((f"worker.{step}", "kill") for step in ("received", "after_reserve", "after_commit")),
    ],
)
def test_ten_units_and_two_orders_for_eight_of_an_interrupted_worker_confirm_exactly_one(
    system: System, points: FailPoints, point: str, action: str
) -> None:
    sku = on_sale(10)

    with points.armed(point, action):
        orders = [placed(system, sku, 8), placed(system, sku, 8)]

    assert ends(system, *orders) == ["confirmed", "rejected"]
    assert_left(sku, 2)


def test_processes_that_die_at_every_step_over_orders_that_go_alone_confirm_exactly_one_of_two(
    system: System, points: FailPoints
) -> None:
    skus = [on_sale(10) for _ in range(8)]

    with ExitStack() as armed:
        for point in IN_THE_WORKER[1:]:
            armed.enter_context(points.armed(point, "kill"))
        with points.armed("worker.received", "raise"):
            orders = [placed(system, sku, 8) for sku in skus for _ in range(2)]

    for sku, pair in zip(skus, zip(orders[::2], orders[1::2], strict=True), strict=True):
        assert ends(system, *pair) == ["confirmed", "rejected"]
        assert_left(sku, 2)


def frozen(system: System, points: FailPoints, *skus: str, ms: int) -> list[Placed]:
    """Orders for 8 units whose workers freeze over them: with locks and units in hand, before and after the decision.

    Each order goes alone: a process that freezes over a batch is replaced after 5 s.
    """
    orders = []
    for sku, step in zip(skus, ["after_reserve", "before_commit", "before_settle"], strict=True):
        with points.armed("worker.received", "raise"), points.armed(f"worker.{step}", f"stop {ms}"):
            orders.append(placed(system, sku, 8))
    return orders


def is_stopped(pid: int) -> bool:
    """Whether a process was told SIGSTOP and not yet SIGCONT."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return False


def test_workers_that_freeze_for_longer_than_their_locks_live_hold_nobody_up(
    system: System, points: FailPoints
) -> None:
    skus = [on_sale(20) for _ in range(3)]

    held_up = frozen(system, points, *skus, ms=6500)
    passed_by = ends(system, *(placed(system, sku, 8) for sku in skus))
    meanwhile = [redis_client().hget(keys.order(order.id), "status") for order in held_up]

    assert (passed_by, meanwhile) == (["confirmed"] * 3, ["queued"] * 3)
    assert ends(system, *held_up) == ["confirmed"] * 3
    for sku in skus:
        assert_left(sku, 4)


def test_workers_that_are_taken_for_dead_and_wake_up_change_nothing(
    system: System, points: FailPoints
) -> None:
    skus = [on_sale(10) for _ in range(3)]

    orders = frozen(system, points, *skus, ms=5500)
    for order in orders:
        # As if the time for which nobody heard of it were over: another worker gets it.
        redis_client().zadd("unacked_index", {order.id: 1}, xx=True)
    ended = ends(system, *orders)
    asleep = [pid for pid in system.pids("worker") if is_stopped(pid)]
    wait_until(lambda: not any(map(is_stopped, asleep)), what="workers that have woken up")

    assert (ended, len(asleep) >= 3) == (["confirmed"] * 3, True)
    for sku in skus:
        assert_left(sku, 2)


# --- the web --------------------------------------------------------------------------------------


@dies_or_fails
@pytest.mark.parametrize("point", ["web.before_claim", "web.after_claim", "web.before_answer"])
def test_a_client_that_gets_no_answer_asks_again_and_has_one_order(
    system: System, points: FailPoints, point: str, action: str
) -> None:
    sku, key = on_sale(10), uuid.uuid4().hex

    with points.armed(point, action):
        interrupted(system, action, lambda: system.place((sku, 8), key=key))
    answer = system.place((sku, 8), key=key)

    assert ends(system, Placed(key=key, sku=sku, units=8, id=answer.body["id"])) == ["confirmed"]
    assert OrderRow.objects.filter(lines__sku=sku).count() == 1
    assert_left(sku, 2)


def withdraw(system: System, sku: str, key: str) -> Answer:
    """Take 4 units off sale."""
    path = f"/api/v1/products/{quote(sku)}/stock-movements"
    return system.send("POST", path, {"delta": -4, "reason": "count"}, {"Idempotency-Key": key})


@dies_or_fails
@pytest.mark.parametrize("point", ["movement.before_books", "movement.after_books"])
def test_a_movement_that_is_interrupted_and_asked_for_again_is_made_once(
    system: System, points: FailPoints, point: str, action: str
) -> None:
    sku, key = on_sale(10), uuid.uuid4().hex

    with points.armed(point, action):
        interrupted(system, action, lambda: withdraw(system, sku, key))
    answer = withdraw(system, sku, key)

    assert (answer.status, answer.body["available"]) == (201, 6)
    assert StockMovement.objects.filter(sku=sku, delta=-4).count() == 1
    assert_left(sku, 6)


# --- cancelling -----------------------------------------------------------------------------------


@dies_or_fails
def test_cancellations_that_are_interrupted_at_each_step_return_their_units_once(
    system: System, points: FailPoints, action: str
) -> None:
    sku = on_sale(10)
    orders = [placed(system, sku, 2) for _ in range(3)]
    assert ends(system, *orders) == ["confirmed"] * 3

    for order, step in zip(orders, ["before_books", "after_books", "after_settle"], strict=True):
        with points.armed(f"cancel.{step}", action):
            assert system.send("POST", f"/api/v1/orders/{order.id}/cancel").status == 202
    wait_until(lambda: ends(system, *orders) == ["cancelled"] * 3, what="three cancellations")
    # Redis may hear of units that were returned after the order shows as cancelled: with the next sweep.
    wait_until(lambda: free_in_redis(redis_client(), sku) == 10, what="all units back on sale")

    assert StockMovement.objects.filter(sku=sku, kind="cancellation").count() == 3
    assert_left(sku, 10)


# --- housekeeping and commands --------------------------------------------------------------------


@dies_or_fails
def test_a_sweep_that_is_interrupted_loses_no_order(system: System, points: FailPoints, action: str) -> None:
    sku, client = on_sale(10), redis_client()

    with points.armed("sweeper.before_requeue", action):
        (lost,) = accepted(client, an_order((sku, 8)))
        client.zadd(keys.OPEN_ORDERS, {lost.id: 1})
        housekeeping("sweep")
    housekeeping("sweep")

    wait_until(lambda: status_in_redis(client, lost) == "confirmed", what="the end of the order")
    assert_left(sku, 2)


@dies_or_fails
def test_a_repair_that_is_interrupted_is_made_by_the_next_one(
    system: System, points: FailPoints, action: str
) -> None:
    sku, client = on_sale(10), redis_client()

    with points.armed("reconcile.before_repair", action):
        client.set(keys.stock(sku), "many")
        housekeeping("reconcile")
    housekeeping("reconcile")
    wait_until(lambda: client.get(keys.stock(sku)) == "10", what="the repair")

    assert ends(system, placed(system, sku, 8)) == ["confirmed"]
    assert_left(sku, 2)


@dies_or_fails
@pytest.mark.parametrize(
    ("point", "loaded"),
    [("catalogue.before_load", []), ("catalogue.after_books", [10])],
    ids=str,
)
def test_a_catalogue_whose_load_is_interrupted_is_loaded_whole_by_the_next_one(
    system: System, points: FailPoints, tmp_path: Path, point: str, loaded: list[int], action: str
) -> None:
    sku = a_sku(stock=None)
    (file := tmp_path / "catalogue.csv").write_text(f"sku,name,price,stock\n{sku},A product,2.50,10\n")

    with points.armed(point, action):
        code = manage("load_catalogue", str(file), folder=tmp_path, env=system.env)
    in_books = list(Product.objects.filter(sku=sku).values_list("on_sale", flat=True))
    call_command("load_catalogue", str(file), stdout=StringIO(), stderr=StringIO())

    assert (code, in_books) == (128 + signal.SIGKILL if action == "kill" else 1, loaded)
    assert ends(system, placed(system, sku, 8)) == ["confirmed"]
    assert_left(sku, 2)


# --- and at last ----------------------------------------------------------------------------------


def test_what_was_never_acknowledged_comes_again_and_is_found_done(
    system: System, unacknowledged: Unacknowledged
) -> None:
    def all_acknowledged() -> bool:
        return not unacknowledged.messages & set(redis_client().hkeys("unacked"))

    wait_until(all_acknowledged, timeout_s=25, what="the last acknowledgement")

    assert ends(system, *unacknowledged.orders) == ["confirmed"] * 3
    assert_left(unacknowledged.sku, 4)
