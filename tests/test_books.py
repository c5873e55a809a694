"""What PostgreSQL takes and what it refuses, whatever Redis says."""

import uuid
from threading import Thread

import msgspec
import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from shop import books
from shop.books import Blocked, Intent, Question, Recorded, Refused, Stock
from shop.domain import LineShortage, Order, Reason, ReasonCode, Status
from shop.models import Order as OrderRow
from shop.models import OrderIdentity, OrderLine, Product, StockMovement
from shop.stores import RowHeld
from tests.builders import a_sku, an_order, at_once, row_held, somebody_waits_for_us, wait_until


def decide(*orders: Order, intent: Intent = Intent.TAKE) -> list[object]:
    """What PostgreSQL says of orders, in this order."""
    outcomes = books.decide([Question(order=order, intent=intent) for order in orders]).outcomes
    return [outcomes[order.id] for order in orders]


def ends(*orders: Order, intent: Intent = Intent.TAKE) -> list[str]:
    """Their statuses, or what they wait for."""
    found = decide(*orders, intent=intent)
    return [each.status.value if isinstance(each, Recorded) else type(each).__name__ for each in found]


def test_a_confirmed_order_is_written_with_its_lines_counters_and_movements() -> None:
    sku, other = a_sku(stock=10), a_sku(stock=10)
    order = an_order((sku, 3), (other, 2))

    decided = books.decide([Question(order=order, intent=Intent.TAKE)])

    assert decided.outcomes == books.recorded([order.id])
    assert decided.stock == {sku: Stock(version=2, free=7), other: Stock(version=2, free=8)}
    assert decided.stock == books.stock_of([sku, other])
    assert list(
        OrderLine.objects.filter(order=order.id)
        .order_by("position")
        .values_list("position", "sku", "quantity")
    ) == [
        (0, sku, 3),
        (1, other, 2),
    ]
    movement = StockMovement.objects.get(order_id=order.id, sku=other)
    assert (movement.kind, movement.delta, movement.client) == ("sale", -2, "shop")


def test_a_rejected_order_is_kept_with_its_reason_and_takes_nothing() -> None:
    scarce, plenty = a_sku(stock=1), a_sku(stock=10)
    order = an_order((plenty, 2), (scarce, 3))

    assert ends(order) == ["rejected"]

    reason = Reason(ReasonCode.INSUFFICIENT_STOCK, (LineShortage(scarce, 3, 1),))
    assert books.recorded([order.id])[order.id].reason == reason
    assert books.stock_of([scarce, plenty]) == {
        scarce: Stock(version=1, free=1),
        plenty: Stock(version=1, free=10),
    }
    assert OrderLine.objects.filter(order=order.id).count() == 2
    assert StockMovement.objects.filter(order_id=order.id).count() == 0


def test_the_first_row_of_an_order_stands_and_the_second_writer_learns_it() -> None:
    sku = a_sku(stock=10)
    order = an_order((sku, 3))
    (first,) = decide(order)

    assert decide(order, intent=Intent.FAILED) == [first]
    assert decide(order) == [first]
    assert Product.objects.get(sku=sku).confirmed == 3


def test_a_copy_that_was_accepted_later_finds_the_order_that_is_there() -> None:
    sku = a_sku(stock=10)
    order = an_order((sku, 3))
    (first,) = decide(order)
    copies = [
        msgspec.structs.replace(order, accepted_at_ms=order.accepted_at_ms + later)
        for later in (1, 86_400_000)
    ]

    found = [decide(copy, intent=intent) for copy in copies for intent in (Intent.TAKE, Intent.FAILED)]

    assert found == [[first]] * 4
    assert (
        OrderRow.objects.filter(id=order.id).count() == OrderIdentity.objects.filter(id=order.id).count() == 1
    )
    assert Product.objects.get(sku=sku).confirmed == 3


def test_orders_of_one_call_are_served_in_turn_and_a_refused_one_takes_nothing_from_the_next() -> None:
    sku, scarce = a_sku(stock=10), a_sku(stock=1)

    found = ends(
        an_order((sku, 6)),
        an_order((sku, 5)),
        an_order((sku, 4), (scarce, 2)),
        an_order((sku, 4), (scarce, 1)),
    )

    assert found == ["confirmed", "rejected", "rejected", "confirmed"]
    assert books.stock_of([sku, scarce]) == {sku: Stock(version=2, free=0), scarce: Stock(version=2, free=0)}


def test_a_sku_that_does_not_exist_is_named_before_what_is_short() -> None:
    scarce, unknown = a_sku(stock=1), a_sku(stock=None)
    order = an_order((scarce, 2), (unknown, 4))

    assert ends(order) == ["rejected"]

    reason = Reason(ReasonCode.UNKNOWN_SKU, (LineShortage(unknown, 4, 0),))
    assert books.recorded([order.id])[order.id].reason == reason
    assert not Product.objects.filter(sku=unknown).exists()


def test_an_order_that_redis_called_short_is_rejected_only_where_postgresql_agrees() -> None:
    sku = a_sku(stock=2)
    agreed, doubted = an_order((sku, 3)), an_order((sku, 2))

    assert ends(agreed, doubted, intent=Intent.SHORT) == ["rejected", "Again"]
    assert books.recorded([doubted.id]) == {}


def test_an_order_that_redis_called_short_meets_what_the_same_call_takes() -> None:
    sku = a_sku(stock=2)
    taking, late = an_order((sku, 2)), an_order((sku, 1))

    outcomes = books.decide(
        [Question(order=taking, intent=Intent.TAKE), Question(order=late, intent=Intent.SHORT)]
    ).outcomes

    assert [each.status for each in outcomes.values() if isinstance(each, Recorded)] == [
        "confirmed",
        "rejected",
    ]


def test_an_order_is_booked_again_only_where_its_units_are_free() -> None:
    sku = a_sku(stock=2)
    fits, too_late = an_order((sku, 2)), an_order((sku, 1))

    assert ends(fits, too_late, intent=Intent.BOOK) == ["confirmed", "Again"]
    assert books.recorded([too_late.id]) == {}
    assert list(StockMovement.objects.filter(order_id=fits.id).values_list("delta", flat=True)) == [-2]


def test_a_row_that_somebody_holds_blocks_its_own_orders_alone() -> None:
    sku, other = a_sku(stock=10), a_sku(stock=10)
    first, second, third = an_order((sku, 1)), an_order((other, 1)), an_order((other, 9), (sku, 1))

    with row_held(sku):
        assert decide(first, second, third)[::2] == [Blocked(sku), Blocked(sku)]
        assert ends(an_order((sku, 11)), intent=Intent.SHORT) == ["rejected"]
        assert ends(an_order((sku, 1), (a_sku(stock=None), 1))) == ["rejected"]

    assert books.recorded([first.id, second.id, third.id]).keys() == {second.id}
    assert ends(first, third) == ["confirmed", "confirmed"]


def test_calls_over_the_same_skus_in_any_order_do_not_block_each_other() -> None:
    skus = [a_sku(stock=1000) for _ in range(6)]

    def sell(turn: int) -> None:
        for _ in range(5):
            waiting = [an_order(*((sku, 1) for sku in skus[:: 1 - 2 * (turn % 2)])) for _ in range(3)]
            while waiting:
                found = zip(waiting, decide(*waiting), strict=True)
                waiting = [order for order, each in found if isinstance(each, Blocked)]

    results = at_once(*(lambda turn=turn: sell(turn) for turn in range(8)))

    assert [result for result in results if isinstance(result, Exception)] == []
    assert {product.confirmed for product in Product.objects.filter(sku__in=skus)} == {8 * 5 * 3}


def test_of_many_who_decide_one_order_at_once_all_learn_one_end() -> None:
    order = an_order((a_sku(stock=10), 3))
    intents = [Intent.TAKE, Intent.CANCELLED, Intent.FAILED, Intent.TAKE] * 2

    found = at_once(*(lambda intent=intent: decide(order, intent=intent)[0] for intent in intents))

    assert {each.status for each in found if isinstance(each, Recorded)} == {
        books.recorded([order.id])[order.id].status
    }
    assert {type(each) for each in found} <= {Recorded, Blocked}


@pytest.mark.parametrize("beside", [Intent.TAKE, Intent.CANCELLED])
def test_a_row_that_another_call_writes_at_the_same_moment_is_the_order_s_end(beside: Intent) -> None:
    """Neither finds the row of the other, and nothing but the id tells that it is one order: a copy was accepted later, as
    when Redis has forgotten it. `beside`: what else the call decides, all at a glance or one by one.
    """
    sku = a_sku(stock=10)
    order, neighbour = an_order((sku, 3)), an_order((sku, 1))
    copy = msgspec.structs.replace(order, accepted_at_ms=order.accepted_at_ms + 1)
    questions = [Question(order=copy, intent=Intent.TAKE), Question(order=neighbour, intent=beside)]
    decided: list[object] = []
    late = Thread(target=lambda: decided.extend(at_once(lambda: books.decide(questions))))

    with transaction.atomic():
        decide(order, intent=Intent.FAILED)
        late.start()
        wait_until(somebody_waits_for_us)
    late.join()

    (found,) = decided
    assert isinstance(found, books.Decisions)
    assert found.outcomes == books.recorded([order.id, neighbour.id])
    assert books.recorded([order.id])[order.id].status is Status.FAILED
    assert Product.objects.get(sku=sku).confirmed == (beside is Intent.TAKE)


def test_postgresql_s_constraint_refuses_by_itself_to_oversell() -> None:
    sku = a_sku(stock=10)
    decide(an_order((sku, 8)))

    with pytest.raises(IntegrityError, match="product_not_oversold"), transaction.atomic():
        Product.objects.filter(sku=sku).update(confirmed=11)


def test_an_order_that_can_t_be_stored_is_refused_with_its_call() -> None:
    sku = a_sku(stock=10)
    good, bad = an_order((sku, 1)), msgspec.structs.replace(an_order((sku, 1)), fingerprint="x" * 33)

    with pytest.raises(Refused):
        decide(good, bad)

    assert books.recorded([good.id]) == {}


@pytest.mark.parametrize(
    "change", ["UPDATE shop_stockmovement SET delta = 0", "DELETE FROM shop_stockmovement"]
)
def test_nobody_edits_the_ledger(change: str) -> None:
    a_sku(stock=1)

    with (
        pytest.raises(DatabaseError, match="never changed"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(change)


def test_a_cancellation_waits_for_no_row_and_changes_nothing_where_one_is_held() -> None:
    sku, other = a_sku(stock=10), a_sku(stock=10)
    order = an_order((sku, 1), (other, 2))
    decide(order)

    with row_held(other), pytest.raises(RowHeld):
        books.cancel(order.id)
    assert books.stock_of([sku, other]) == {sku: Stock(version=2, free=9), other: Stock(version=2, free=8)}
    assert books.recorded([order.id])[order.id].status is Status.CONFIRMED
    books.cancel(order.id)

    assert books.stock_of([sku, other]) == {sku: Stock(version=3, free=10), other: Stock(version=3, free=10)}


def test_cancelling_what_is_not_there_or_was_rejected_changes_nothing() -> None:
    sku = a_sku(stock=10)
    sold, order = an_order((sku, 8)), an_order((sku, 8))
    decide(sold, order)

    books.cancel(order.id)
    books.cancel(str(uuid.uuid4()))

    assert books.recorded([order.id])[order.id].status is Status.REJECTED
