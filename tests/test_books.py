"""What PostgreSQL takes and what it refuses, whatever Redis says."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import DatabaseError, connection, transaction

from shop import books
from shop.books import Decision, Refused
from shop.domain import LineShortage, Order, Reason, ReasonCode, Status
from shop.models import Order as OrderRow
from shop.models import OrderLine, Product, StockMovement
from tests.builders import a_sku, an_order, at_once, somebody_waits_for_us, wait_until


def confirmed(order: Order, token: str = "token") -> Decision:
    """The decision to confirm an order."""
    return Decision(order=order, status=Status.CONFIRMED, token=token)


def test_a_confirmed_order_is_written_with_its_lines_counters_and_movements() -> None:
    sku, other = a_sku(stock=10), a_sku(stock=10)
    order = an_order((sku, 3), (other, 2))

    recorded = books.record([confirmed(order)])

    assert recorded == books.recorded([order.id])
    assert (recorded[order.id].status, recorded[order.id].token) == (Status.CONFIRMED, "token")
    assert list(
        OrderLine.objects.filter(order=order.id)
        .order_by("position")
        .values_list("position", "sku", "quantity")
    ) == [
        (0, sku, 3),
        (1, other, 2),
    ]
    assert Product.objects.get(sku=sku).confirmed == 3
    movement = StockMovement.objects.get(order_id=order.id, sku=other)
    assert (movement.kind, movement.delta, movement.client) == ("sale", -2, "shop")


def test_a_rejected_order_is_kept_with_its_reason_and_takes_nothing() -> None:
    sku = a_sku(stock=1)
    order = an_order((sku, 3))
    reason = Reason(ReasonCode.INSUFFICIENT_STOCK, (LineShortage(sku, 3, 1),))

    books.record([Decision(order=order, status=Status.REJECTED, reason=reason)])

    assert books.recorded([order.id])[order.id].reason == reason
    assert Product.objects.get(sku=sku).confirmed == 0
    assert StockMovement.objects.filter(order_id=order.id).count() == 0


def test_the_first_row_of_an_order_stands_and_the_second_writer_is_told() -> None:
    sku = a_sku(stock=10)
    order = an_order((sku, 3))
    books.record([confirmed(order, "first")])

    recorded = books.record([confirmed(order, "second")])

    assert recorded[order.id].token == "first"
    assert Product.objects.get(sku=sku).confirmed == 3


def test_the_books_refuse_more_units_than_are_on_sale_and_write_nothing_of_the_batch() -> None:
    sku = a_sku(stock=10)
    orders = [an_order((sku, 6)), an_order((sku, 6))]

    with pytest.raises(Refused):
        books.record([confirmed(order) for order in orders])

    assert OrderRow.objects.filter(id__in=[order.id for order in orders]).count() == 0
    assert Product.objects.get(sku=sku).confirmed == 0


def test_the_books_refuse_a_sku_that_does_not_exist() -> None:
    known, unknown = a_sku(stock=10), a_sku(stock=None)

    with pytest.raises(Refused):
        books.record([confirmed(an_order((known, 1), (unknown, 1)))])

    assert Product.objects.get(sku=known).confirmed == 0
    assert not Product.objects.filter(sku=unknown).exists()


def test_batches_over_the_same_skus_in_any_order_do_not_block_each_other() -> None:
    skus = [a_sku(stock=1000) for _ in range(6)]

    results = at_once(
        *(
            lambda turn=turn: [
                books.record(
                    [
                        confirmed(an_order(*((sku, 1) for sku in skus[:: 1 - 2 * (turn % 2)])))
                        for _ in range(3)
                    ]
                )
                for _ in range(5)
            ]
            for turn in range(8)
        )
    )

    assert [result for result in results if isinstance(result, Exception)] == []
    assert {product.confirmed for product in Product.objects.filter(sku__in=skus)} == {8 * 5 * 3}


def test_products_are_counted_in_the_order_of_their_skus() -> None:
    """So does whoever cancels: of two that want the same products the second waits, and never each for the other."""
    name = uuid.uuid4().hex[:6]
    skus = [f"{at:02} {name}" for at in range(40)]
    for sku in reversed(skus):
        a_sku(stock=10, sku=sku)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE shop_product")
    batch = [confirmed(an_order((sku, 1))) for sku in skus[::3] + skus[1::3] + skus[2::3]]

    with ThreadPoolExecutor() as pool, transaction.atomic():
        Product.objects.select_for_update().get(sku=skus[20])
        recording = pool.submit(at_once, lambda: books.record(batch))
        wait_until(somebody_waits_for_us, what="a batch that waits for a product")
        not_taken = set(
            Product.objects.filter(sku__in=skus)
            .select_for_update(skip_locked=True)
            .values_list("sku", flat=True)
        )
        transaction.set_rollback(True)

    assert not_taken == set(skus[20:])
    assert [isinstance(result, Exception) for result in recording.result()] == [False]


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


def test_the_books_say_what_is_short_and_what_is_unknown() -> None:
    scarce, unknown = a_sku(stock=1), a_sku(stock=None)

    assert books.shortages(an_order((scarce, 1))) is None
    assert books.shortages(an_order((scarce, 2))) == Reason(
        ReasonCode.INSUFFICIENT_STOCK, (LineShortage(scarce, 2, 1),)
    )
    assert books.shortages(an_order((scarce, 1), (unknown, 4))) == Reason(
        ReasonCode.UNKNOWN_SKU, (LineShortage(unknown, 4, 0),)
    )


def test_cancelling_what_is_not_there_or_was_rejected_changes_nothing() -> None:
    sku = a_sku(stock=10)
    sold, order = an_order((sku, 8)), an_order((sku, 8))
    books.record(
        [Decision(order=sold, status=Status.CONFIRMED), Decision(order=order, status=Status.REJECTED)]
    )

    books.cancel(order.id)
    books.cancel(str(uuid.uuid4()))

    assert books.recorded([order.id])[order.id].status is Status.REJECTED
