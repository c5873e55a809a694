"""Stories of workers that meet: what each begins with, who works at once, and how it has to end in every order of calls."""

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.db import OperationalError, connection

from shop import keys, movements, scripts, stock, sweeper
from shop.domain import Order
from shop.fulfilment import Rules, cancel, fulfil, settle_again
from shop.models import StockMovement
from shop.stores import StoreUnavailable, sql
from tests.builders import (
    a_sku,
    accepted,
    an_order,
    free_in_redis,
    fulfilled,
    status_in_books,
    status_in_redis,
)
from tests.interleaving import Story, Work

LOCKS, NO_LOCKS = Rules(), Rules(lock_ttl_ms=0)
LAST_ATTEMPT = Rules(lock_ttl_ms=0, max_attempts=1, attempt_ms=0)


def on_sale(client: "redis.Redis") -> str:
    """A SKU with 10 units, whose counter is there."""
    sku = a_sku(stock=10)
    stock.refresh(client, [sku])
    return sku


def now_ms(later_s: int = 0) -> int:
    return int(time.time() * 1000) + 1000 * later_s


# --- works ----------------------------------------------------------------------------------------


def fulfilling(order: Order, rules: Rules = NO_LOCKS) -> Work:
    """A worker has the order's message, and has it again where it met a lock or a row."""
    return lambda client: fulfilled([order], client=client, rules=rules)


def cancelling(order: Order) -> Work:
    """A worker has the message to cancel the order."""
    return lambda client: cancel(order.id, client=client)


def moving(sku: str, delta: int, request: str = "") -> Work:
    """The API is asked for a stock movement."""
    request = request or str(uuid.uuid4())
    return lambda client: movements.move(
        client=client, request=request, by="tests", sku=sku, delta=delta, reason="a test"
    )


def publishing(sku: str) -> Work:
    """The sweeper, which takes the process that changed the stock for dead; or `reconcile --repair`."""
    return lambda client: stock.refresh(client, [sku])


def cancelling_overdue(client: "redis.Redis") -> None:
    """The sweeper, which takes the messages of cancellations for lost."""
    sweeper.cancel_overdue(client, now_ms(later_s=60))


class Died(Exception):
    """Stands for a process that was killed."""


def died(client: "redis.Redis", order: Order, *, decided: bool) -> None:
    """The order's worker has died, right before it wrote its decision or right after."""

    def die(execute: Callable[..., Any], *call: Any) -> None:
        if decided:
            execute(*call)
        raise Died

    with connection.execute_wrapper(die), pytest.raises(Died):
        fulfil([order], client=client, rules=NO_LOCKS)


# --- orders that meet -----------------------------------------------------------------------------


def two_orders_for_eight_of_ten(client: "redis.Redis", rules: Rules) -> Story:
    sku = on_sale(client)
    orders = accepted(client, an_order((sku, 8)), an_order((sku, 8)))
    works = [fulfilling(order, rules) for order in orders]
    return Story(works=works, orders=orders, ends=[("confirmed", "rejected")])


def two_skus_in_opposite_order(client: "redis.Redis", rules: Rules) -> Story:
    left, right = on_sale(client), on_sale(client)
    orders = accepted(client, an_order((left, 8), (right, 8)), an_order((right, 8), (left, 8)))
    works = [fulfilling(order, rules) for order in orders]
    return Story(works=works, orders=orders, ends=[("confirmed", "rejected")])


def one_order_for_two_workers(client: "redis.Redis", rules: Rules) -> Story:
    (order,) = accepted(client, an_order((on_sale(client), 8)))
    return Story(works=[fulfilling(order, rules)] * 2, orders=[order], ends=[("confirmed",)])


def one_decision_settled_twice(client: "redis.Redis") -> Story:
    """A worker died after its decision, and two others find the row."""
    (order,) = accepted(client, an_order((on_sale(client), 8)))
    died(client, order, decided=True)

    def settling(client: "redis.Redis") -> None:
        settle_again(order.id, client=client)

    return Story(works=[settling, settling], orders=[order], ends=[("confirmed",)], switches=3)


def given_up_but_alive(client: "redis.Redis") -> Story:
    """The worker of the last attempt that is allowed was not dead, only slow."""
    (order,) = accepted(client, an_order((on_sale(client), 8)))
    works = [fulfilling(order, LAST_ATTEMPT)] * 2
    return Story(works=works, orders=[order], ends=[("confirmed",), ("failed",)])


def without_postgresql_for_a_moment(client: "redis.Redis", rules: Rules) -> Story:
    """One worker can't reach PostgreSQL when it would decide: it releases its locks, and the order comes again."""
    sku = on_sale(client)
    first, second = orders = accepted(client, an_order((sku, 8)), an_order((sku, 8)))

    def away(execute: Callable[..., Any], statement: str, *rest: Any) -> Any:
        if statement == sql("decide"):
            raise OperationalError("gone")
        return execute(statement, *rest)

    def failing(client: "redis.Redis") -> None:
        with connection.execute_wrapper(away), pytest.raises(StoreUnavailable):
            fulfilled([first], client=client, rules=rules)

    return Story(
        works=[failing, fulfilling(second, rules)],
        orders=orders,
        afterwards=fulfilling(first),
        ends=[("confirmed", "rejected")],
        switches=2,
    )


def a_lock_that_ran_out(client: "redis.Redis") -> Story:
    """A worker froze until its lock had run out, and somebody else has taken it."""
    sku = on_sale(client)
    (order,) = accepted(client, an_order((sku, 8)))
    held: list[str | None] = []

    def at_first(client: "redis.Redis") -> None:
        fulfil([order], client=client)

    def taking_the_lock(client: "redis.Redis") -> None:
        client.set(keys.lock(sku), "the next holder", px=4_000)

    def afterwards(client: "redis.Redis") -> None:
        held.append(client.getdel(keys.lock(sku)))
        fulfil([order], client=client)

    def and_so() -> None:
        assert held == ["the next holder"]

    return Story(
        works=[at_first, taking_the_lock],
        orders=[order],
        afterwards=afterwards,
        ends=[("confirmed",)],
        and_so=and_so,
    )


# --- orders that are cancelled --------------------------------------------------------------------


def cancelled_while_fulfilled(client: "redis.Redis", wanted: int, swept: bool = False) -> Story:
    """An order for `wanted` of 10 units is cancelled; `swept`: its message is taken for lost too early."""
    (order,) = accepted(client, an_order((on_sale(client), wanted)))
    answers: list[str] = []

    def asking(client: "redis.Redis") -> None:
        names = [keys.order(order.id), keys.CANCELLATIONS, ""]
        args = [order.id, order.client, now_ms(), "", ""]
        answers.append(scripts.run(client, "request_cancel", names, args))
        cancel(order.id, client=client)

    def and_so() -> None:
        ends = {"requested": {"cancelled"}, "refused": {"rejected"}}
        if wanted > 10:
            ends["requested"].add("rejected")  # in the same moment
        assert status_in_books(order) in ends[answers[0]]

    return Story(
        works=[fulfilling(order), asking, *([cancelling_overdue] if swept else [])],
        switches=1 if swept else 2,
        orders=[order],
        afterwards=cancelling_overdue,
        ends=[("cancelled",), ("rejected",)],
        and_so=and_so,
    )


def cancelled_by_two_workers(client: "redis.Redis") -> Story:
    (order,) = accepted(client, an_order((on_sale(client), 8)))
    fulfil([order], client=client)
    return Story(works=[cancelling(order)] * 2, orders=[order], ends=[("cancelled",)], switches=1)


def looked_at_all_the_time(client: "redis.Redis") -> Story:
    """What a client is shown is in the books already, and is not taken back."""
    (order,) = accepted(client, an_order((on_sale(client), 8)))
    life = ["None", "queued", "confirmed", "cancelled"]
    shown: list[int] = []
    written: list[int] = []

    def looking(client: "redis.Redis") -> None:
        for _ in range(2):
            shown.append(life.index(str(status_in_redis(client, order))))
            written.append(life.index(str(status_in_books(order))))

    def and_so() -> None:
        assert shown == sorted(shown)
        assert all(was == life.index("queued") or was <= is_ for was, is_ in zip(shown, written, strict=True))

    return Story(
        works=[fulfilling(order), looking, cancelling(order)],
        orders=[order],
        ends=[("confirmed",), ("cancelled",)],
        and_so=and_so,
        switches=1,
    )


# --- stock that is moved --------------------------------------------------------------------------


def taken_away_while_sold(client: "redis.Redis", rules: Rules) -> Story:
    """A movement that takes 5 of 10 units meets an order for 8."""
    sku = on_sale(client)
    (order,) = accepted(client, an_order((sku, 8)))

    def and_so() -> None:
        taken = StockMovement.objects.filter(sku=sku, kind="adjustment").count()
        assert (status_in_books(order), taken) in [("confirmed", 0), ("rejected", 1)]

    return Story(
        works=[moving(sku, -5), fulfilling(order, rules)],
        switches=2,
        orders=[order],
        ends=[("confirmed",), ("rejected",)],
        and_so=and_so,
    )


def delivered_while_sold(client: "redis.Redis", rules: Rules) -> Story:
    """A movement that brings 5 units meets an order for 12 of 10."""
    sku = on_sale(client)
    (order,) = accepted(client, an_order((sku, 12)))
    works = [moving(sku, 5), fulfilling(order, rules)]
    return Story(works=works, orders=[order], ends=[("confirmed",), ("rejected",)], switches=2)


def delivered_and_published(client: "redis.Redis") -> Story:
    """A movement meets a sweeper that has read the stock before it."""
    sku = on_sale(client)

    def and_so() -> None:
        assert free_in_redis(client, sku) == 15

    return Story(works=[moving(sku, 5), publishing(sku)], and_so=and_so, switches=2)


def one_movement_asked_for_twice(client: "redis.Redis", delta: int) -> Story:
    sku, request = on_sale(client), str(uuid.uuid4())

    def and_so() -> None:
        assert StockMovement.objects.filter(request=request).count() == 1
        assert free_in_redis(client, sku) == 10 + delta

    return Story(works=[moving(sku, delta, request)] * 2, and_so=and_so, switches=1)


# --- counters that are published ------------------------------------------------------------------


def published_while_sold(client: "redis.Redis") -> Story:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 8)))

    def and_so() -> None:
        assert free_in_redis(client, sku) == 2

    works = [publishing(sku), fulfilling(order)]
    return Story(works=works, orders=[order], ends=[("confirmed",)], and_so=and_so, switches=2)


def published_while_cancelled(client: "redis.Redis") -> Story:
    sku = on_sale(client)
    (order,) = accepted(client, an_order((sku, 8)))
    fulfil([order], client=client)

    def and_so() -> None:
        assert free_in_redis(client, sku) == 10

    works = [publishing(sku), cancelling(order)]
    return Story(works=works, orders=[order], ends=[("cancelled",)], and_so=and_so, switches=2)


def taken_over_from_one_that_died(client: "redis.Redis") -> Story:
    """A worker died with units of an order off the counter; another order wants them, and its own is redelivered."""
    sku = on_sale(client)
    first, second = orders = accepted(client, an_order((sku, 8)), an_order((sku, 8)))
    died(client, first, decided=False)
    works = [fulfilling(first), fulfilling(second)]
    return Story(works=works, orders=orders, ends=[("confirmed", "rejected")], switches=2)


def lost_while_sold(client: "redis.Redis") -> Story:
    """Redis loses the counter while two orders want its units."""
    sku = on_sale(client)
    orders = accepted(client, an_order((sku, 8)), an_order((sku, 8)))

    def losing(client: "redis.Redis") -> None:
        client.delete(keys.stock(sku), keys.version(sku))

    works = [*map(fulfilling, orders), losing]
    return Story(
        works=works,
        orders=orders,
        afterwards=publishing(sku),
        ends=[("confirmed", "rejected")],
        switches=1,
    )
