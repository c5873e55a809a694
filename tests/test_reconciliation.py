"""What reconcile tells, explains and mends, at rest and while orders flow."""

import threading

import pytest
import redis
from django.core.management import call_command
from django.db import connection

from shop import keys, reconciliation, stock
from shop.fulfilment import fulfil
from shop.models import Product
from shop.stores import rows
from tests.builders import a_sku, accepted, an_order, assert_at_rest, free_in_redis


def about(report: reconciliation.Report, sku: str) -> list[reconciliation.Difference]:
    """What a report says of one SKU."""
    return [difference for difference in report.differences if difference.what.startswith(sku)]


def test_what_agrees_is_not_mentioned(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    fulfil(accepted(client, an_order((sku, 3))), client=client)

    assert about(reconciliation.reconcile(client, ledger=True), sku) == []


def test_a_counter_edited_by_hand_is_told_and_never_mended_by_itself(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    stock.load(client, [sku])
    client.set(keys.stock(sku), 12)

    report = reconciliation.reconcile(client, repair=True)

    (difference,) = about(report, sku)
    assert (difference.cause, difference.mended, report.clean) == ("", False, False)
    assert free_in_redis(client, sku) == 12


def test_the_session_s_own_time_out_is_as_it_was_after_a_reconcile(client: "redis.Redis") -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 1234")
        try:
            reconciliation.reconcile(client, ledger=True)
            cursor.execute("SHOW statement_timeout")
            found = cursor.fetchone()
        finally:
            cursor.execute("SET statement_timeout = 3000")

    assert found == ("1234ms",)


def test_an_operator_can_have_a_sku_loaded_afresh(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    stock.load(client, [sku])
    client.set(keys.stock(sku), 12)

    call_command("reconcile", "--reload", sku)

    assert free_in_redis(client, sku) == 10


def test_a_movement_that_did_not_reach_redis_is_explained_and_mended(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    stock.load(client, [sku])
    rows(
        "move",
        request="00000000-0000-4000-8000-00000000000a",
        client="c",
        sku=sku,
        delta=5,
        reason="delivery",
    )

    told = about(reconciliation.reconcile(client), sku)
    mended = about(reconciliation.reconcile(client, repair=True), sku)

    assert [difference.cause for difference in told] == ["a stock movement has not reached Redis"]
    assert [difference.mended for difference in told + mended] == [False, True]
    assert free_in_redis(client, sku) == 15


def test_a_counter_that_is_no_number_is_mended(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    stock.load(client, [sku])
    client.set(keys.stock(sku), "many")

    reconciliation.reconcile(client, repair=True)
    fulfil(accepted(client, an_order((sku, 1))), client=client)

    assert free_in_redis(client, sku) == 9


@pytest.mark.usefixtures("locks")
def test_orders_in_flight_are_respected(client: "redis.Redis") -> None:
    sku = a_sku(stock=1000)
    orders = accepted(client, *(an_order((sku, 1)) for _ in range(300)))
    differences: list[object] = []
    done = threading.Event()

    def watch() -> None:
        from django.db import connection

        while not done.is_set():
            differences.extend(about(reconciliation.reconcile(client, repair=True), sku))
        connection.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for order in orders:
            fulfil([order], client=client)
    finally:
        done.set()
        watcher.join()

    assert differences == []
    assert free_in_redis(client, sku) == 700


def test_a_counter_that_is_not_the_sum_of_its_ledger_is_told(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    Product.objects.filter(sku=sku).update(on_sale=11)

    differences = about(reconciliation.reconcile(client, ledger=True), sku)
    Product.objects.filter(sku=sku).update(on_sale=10)

    assert "movements say 10" in str(differences[-1])


def test_a_lock_that_never_expires_and_an_order_that_never_ends_are_told(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(), 1)))
    client.hset(keys.order(order.id), "updated_at", 1)
    sku = a_sku()
    client.set(keys.lock(sku), "somebody")

    told = " ".join(
        str(difference) for difference in reconciliation.reconcile(client, repair=True).differences
    )

    assert f"{keys.lock(sku)} has no expiry, held by somebody" in told
    assert order.id in told
    assert client.get(keys.lock(sku)) == "somebody"


def test_a_lock_that_never_expires_is_told_where_an_order_waits_for_it_though_no_product_has_that_sku(
    client: "redis.Redis",
) -> None:
    (order,) = accepted(client, an_order(("no product", 1)))
    client.hset(keys.order(order.id), "updated_at", 1)
    client.set(keys.lock("no product"), "somebody")

    told = {str(difference) for difference in reconciliation.reconcile(client).differences}

    cause = f"{keys.lock('no product')} has no expiry, held by somebody"
    assert f"order {order.id} is still open: {cause} (left as it is)" in told


def test_the_command_says_so_by_its_exit_code(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    stock.load(client, [sku])
    client.set(keys.stock(sku), 12)

    with pytest.raises(SystemExit) as ended:
        call_command("reconcile")
    stock.unload(client, [sku])
    call_command("reconcile")

    assert ended.value.code == 1


@pytest.mark.usefixtures("locks")
def test_loading_while_orders_flow_stays_exact(client: "redis.Redis") -> None:
    """Counters are forgotten again and again under a running sale, with and without locks held by orders."""
    sku = a_sku(stock=400)
    orders = accepted(client, *(an_order((sku, 1)) for _ in range(300)))
    done = threading.Event()

    def forget() -> None:
        pause_s = 0.003
        while not done.wait(pause_s):
            # The longer a counter stays away, the longer its load may take: a slow machine needs more than a moment for it.
            pause_s = 0.003 if client.exists(keys.stock(sku)) else pause_s * 1.5
            stock.unload(client, [sku])

    forgetter = threading.Thread(target=forget)
    forgetter.start()
    try:
        for order in orders:
            fulfil([order], client=client)
    finally:
        done.set()
        forgetter.join()
    stock.load(client, [sku])

    assert free_in_redis(client, sku) == 100
    assert_at_rest(client)
