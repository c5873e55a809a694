"""The verdict on a crowd of orders: silent where all is well, naming each thing that was spoilt by hand."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import psycopg
import pytest
from django.conf import settings
from django.db import connection

from shop import crowd, keys
from shop.client import AsyncClient, Client
from shop.crowd import Bought, Wish
from shop.domain import Line, LineShortage, Reason, ReasonCode, Status
from shop.models import Order, OrderLine, Product, StockMovement
from shop.stores import redis_client
from shop.verdict import Verdict, judge
from shop.web.schemas import OrderAnswer
from tests.builders import a_sku, wait_until
from tests.running import System


@pytest.fixture(autouse=True)
def _spoilt_books_are_no_business_of_other_tests() -> Iterator[None]:
    yield
    Product.objects.all().delete()


def a_wish(*lines: tuple[str, int], copies: int = 1) -> Wish:
    """An order that nobody else wants."""
    name = uuid.uuid4().hex
    return Wish(
        key=name, lines=[Line(*line) for line in lines], customer="17850", reference=name, copies=copies
    )


def buy(system: System, *wishes: Wish, buyers: int = 1) -> Bought:
    """Place orders over HTTP, one after another unless there are more buyers."""

    async def run() -> Bought:
        async with AsyncClient(system.url, system.api_key, connections=16) as client:
            return await crowd.buy(client, wishes, buyers=buyers)

    return asyncio.run(run())


def judged(bought: Bought) -> Verdict:
    """The verdict, given now."""
    return judge(bought, redis_client())


def wrong(bought: Bought) -> dict[str, int]:
    """What the verdict finds wrong, and how much of it."""
    return {check.name: check.wrong for check in judged(bought).checks if check.wrong}


def answered(bought: Bought, change: Callable[[OrderAnswer], OrderAnswer]) -> Bought:
    """The same purchase, had the API answered something else."""
    purchase = bought.purchases[0]
    answers = tuple(change(answer) for answer in purchase.answers)
    return replace(bought, purchases=[replace(purchase, answers=answers), *bought.purchases[1:]])


def test_a_sale_without_a_fault_is_accounted_for_to_the_last_unit(system: System) -> None:
    hot, other = a_sku(stock=10), a_sku(stock=5)
    wishes = [
        a_wish((hot, 4)),
        a_wish((hot, 4), (other, 1)),
        a_wish((hot, 2), (hot, 1)),
        a_wish((hot, 2), copies=3),
    ]

    bought = buy(system, *wishes)
    verdict = judged(bought)

    assert verdict.holds, str(verdict)
    assert verdict.totals["asked"] == (4, 6, 14)
    assert verdict.totals["confirmed"] == (3, 4, 11)
    assert verdict.totals["rejected"] == (1, 2, 3)
    assert (verdict.skus, verdict.on_sale, verdict.sold) == (2, 15, 11)
    assert bought.available == {hot: 0, other: 4}
    assert "every order and every unit accounted for" in str(verdict)


def test_many_buyers_at_once_leave_nothing_to_find(system: System) -> None:
    hot = a_sku(stock=60)

    bought = buy(system, *(a_wish((hot, 1 + n % 3), copies=1 + n % 2) for n in range(60)), buyers=15)

    assert judged(bought).holds, str(judged(bought))


def test_a_connection_that_died_during_the_sale_does_not_matter(system: System) -> None:
    bought = buy(system, a_wish((a_sku(), 1)))
    backend = connection.connection.info.backend_pid

    with psycopg.connect(settings.DATABASE_URL) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])

    assert wrong(bought) == {}


def test_orders_for_skus_that_do_not_exist_are_judged_too(system: System) -> None:
    bought = buy(system, a_wish((a_sku(stock=None), 1)))

    assert judged(bought).holds, str(judged(bought))
    assert judged(bought).totals["rejected"] == (1, 1, 1)


def test_an_order_that_the_books_do_not_have_is_lost(system: System) -> None:
    bought = buy(system, a_wish((a_sku(), 1)))
    order_id = bought.purchases[0].answers[0].id

    Order.objects.filter(id=order_id).delete()

    assert wrong(bought)["lost"] == 1
    assert "told confirmed, in the books missing, in Redis confirmed" in str(judged(bought))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda order_id: redis_client().hset(keys.order(order_id), "status", "rejected"),
        lambda order_id: redis_client().zadd(keys.OPEN_ORDERS, {order_id: 4e12}),
    ],
    ids=["it has two states", "it is still open"],
)
def test_an_order_that_redis_has_otherwise_is_lost(system: System, spoil: Callable[[str], object]) -> None:
    bought = buy(system, a_wish((a_sku(), 1)))
    order_id = bought.purchases[0].answers[0].id

    spoil(order_id)

    assert wrong(bought) == {"lost": 1}
    redis_client().zrem(keys.OPEN_ORDERS, order_id)


def test_an_order_that_redis_has_forgotten_is_not_lost(system: System) -> None:
    bought = buy(system, a_wish((a_sku(), 1)))

    redis_client().delete(keys.order(bought.purchases[0].answers[0].id))

    assert wrong(bought) == {}


def test_a_confirmed_order_that_was_cancelled_afterwards_is_not_lost(system: System) -> None:
    sku = a_sku(stock=10)
    bought = buy(system, a_wish((sku, 1)))
    order_id = bought.purchases[0].answers[0].id

    with Client(system.url, system.api_key) as shop:
        shop.cancel(order_id)
        wait_until(lambda: shop.order(order_id).status is Status.CANCELLED)
        wait_until(lambda: shop.product(sku).available == 10)

    assert wrong(replace(bought, available={sku: 10})) == {}


def test_a_second_order_for_one_wish_is_doubled(system: System) -> None:
    sku = a_sku(stock=10)
    wish = a_wish((sku, 1))
    bought = buy(system, wish)

    twin = buy(system, replace(wish, key=uuid.uuid4().hex))

    assert wrong(replace(bought, available=twin.available)) == {"doubled": 1}


def test_the_same_wish_an_hour_before_is_another_order(system: System) -> None:
    sku = a_sku(stock=10)
    wish = a_wish((sku, 1))
    before = buy(system, replace(wish, key=uuid.uuid4().hex))
    Order.objects.filter(id=before.purchases[0].answers[0].id).update(accepted_at="2020-01-01T00:00:00Z")

    assert wrong(buy(system, wish)) == {}


def test_two_answers_with_different_orders_to_one_key_are_doubled(system: System) -> None:
    sku = a_sku(stock=10)
    bought = buy(system, a_wish((sku, 1)))
    other = buy(system, a_wish((sku, 1)))
    purchase = bought.purchases[0]
    answers = (*purchase.answers, *other.purchases[0].answers)

    both = replace(other, purchases=[replace(purchase, answers=answers)])

    assert wrong(both)["doubled"] == 1


def test_a_key_that_stands_for_another_order_is_doubled(system: System) -> None:
    bought = buy(system, a_wish((a_sku(), 1)))
    client = Order.objects.get(id=bought.purchases[0].answers[0].id).client

    redis_client().set(keys.idempotency(client, bought.purchases[0].wish.key), str(uuid.uuid4()), ex=60)

    assert wrong(bought) == {"doubled": 1}


def test_content_that_the_books_have_otherwise_is_changed(system: System) -> None:
    bought = buy(system, a_wish((a_sku(), 1)))

    Order.objects.filter(id=bought.purchases[0].answers[0].id).update(customer="somebody else")

    assert wrong(bought) == {"changed": 1}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda answer: msgspec.structs.replace(answer, status=Status.QUEUED), "lost"),
        (lambda answer: msgspec.structs.replace(answer, customer=None), "changed"),
        (lambda answer: msgspec.structs.replace(answer, items=answer.items[:-1]), "changed"),
        (lambda answer: msgspec.structs.replace(answer, reason=Reason(ReasonCode.UNKNOWN_SKU)), "changed"),
    ],
    ids=["never final", "customer", "lines", "reason"],
)
def test_an_answer_that_is_not_what_was_asked_for_is_found(
    system: System, change: Callable[[OrderAnswer], OrderAnswer], found: str
) -> None:
    bought = buy(system, a_wish((a_sku(), 1), (a_sku(), 1)))

    assert wrong(answered(bought, change)) == {found: 1}


def test_a_refusal_that_names_no_short_line_is_changed(system: System) -> None:
    sku = a_sku(stock=1)
    bought = buy(system, a_wish((sku, 2)))
    untrue = Reason(ReasonCode.INSUFFICIENT_STOCK, (LineShortage(sku, 2, 2),))

    assert wrong(answered(bought, lambda answer: msgspec.structs.replace(answer, reason=untrue))) == {
        "changed": 1
    }


def test_more_units_in_confirmed_orders_than_on_sale_are_oversold(system: System) -> None:
    sku = a_sku(stock=10)
    bought = buy(system, a_wish((sku, 8)))
    order_id = bought.purchases[0].answers[0].id

    OrderLine.objects.filter(order_id=order_id).update(quantity=13)

    assert wrong(bought)["oversold"] == 3
    assert f"{sku}: 13 confirmed of 10" in str(judged(bought))


def test_an_order_that_was_refused_though_it_fitted_is_undersold(system: System) -> None:
    sku = a_sku(stock=10)
    buy(system, a_wish((sku, 1)))
    counter = redis_client().get(keys.stock(sku))
    Product.objects.filter(sku=sku).update(on_sale=3)

    bought = buy(system, a_wish((sku, 4)), a_wish((sku, 3)), a_wish((sku, 3)))

    assert bought.purchases[0].answers[0].status is Status.REJECTED
    Product.objects.filter(sku=sku).update(on_sale=10)
    redis_client().set(keys.stock(sku), str(counter))
    # Nine are left: the four and three of them fit in there, the other three do not any more.
    assert wrong(replace(bought, available={sku: 9})) == {"undersold": 7}


def test_an_order_that_would_only_fit_because_of_a_later_delivery_is_not_undersold(system: System) -> None:
    sku = a_sku(stock=2)
    bought = buy(system, a_wish((sku, 4)))

    with Client(system.url, system.api_key) as shop:
        moved = shop.move_stock(sku, 5, reason="delivery", key=uuid.uuid4().hex)

    assert wrong(replace(bought, available={sku: 7})) == {}
    assert moved.available == 7


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda sku: redis_client().decr(keys.stock(sku)), "free 9, in Redis 8"),
        (lambda sku: redis_client().set(keys.stock(sku), "nine"), "free 9, in Redis nine"),
        (lambda sku: Product.objects.filter(sku=sku).update(on_sale=11), "on sale 11, by movements 10"),
        (lambda sku: Product.objects.filter(sku=sku).update(confirmed=2), "confirmed 2, by orders 1"),
        (
            lambda sku: StockMovement.objects.create(sku=sku, kind="sale", delta=-1),
            "sold by movements 2, by orders 1",
        ),
    ],
    ids=["Redis lost a unit", "Redis holds no number", "put on sale", "confirmed", "ledger"],
)
def test_counters_that_disagree_are_miscounted(
    system: System, spoil: Callable[[str], object], told: str
) -> None:
    sku = a_sku(stock=10)
    bought = buy(system, a_wish((sku, 1)))

    spoil(sku)

    assert wrong(bought) == {"miscounted": 1}
    assert told in str(judged(bought))


def test_an_api_that_tells_another_number_is_miscounted(system: System) -> None:
    sku = a_sku(stock=10)
    bought = buy(system, a_wish((sku, 1)))

    assert wrong(replace(bought, available={sku: 8})) == {"miscounted": 1}


def test_a_counter_that_is_missing_is_no_fault(system: System) -> None:
    sku = a_sku(stock=10)
    bought = buy(system, a_wish((sku, 1)))

    redis_client().delete(keys.stock(sku), keys.version(sku))

    assert wrong(bought) == {}


def test_units_that_somebody_else_is_about_to_buy_are_no_fault(system: System) -> None:
    sku = a_sku(stock=10)
    bought = buy(system, a_wish((sku, 1)))
    redis_client().set(keys.lock(sku), str(uuid.uuid4()), px=5000)
    redis_client().decrby(keys.stock(sku), 3)

    assert wrong(replace(bought, available={sku: 6})) == {}
    redis_client().delete(keys.lock(sku))


def test_a_lock_of_an_ended_order_was_left_behind_and_that_of_a_stranger_was_not(system: System) -> None:
    mine, theirs = a_sku(stock=10), a_sku(stock=10)
    bought = buy(system, a_wish((mine, 1), (theirs, 1)))

    redis_client().set(keys.lock(mine), bought.purchases[0].answers[0].id, px=5000)
    redis_client().set(keys.lock(theirs), str(uuid.uuid4()), px=5000)

    assert wrong(bought) == {"left behind": 1}
    redis_client().delete(keys.lock(mine), keys.lock(theirs))
