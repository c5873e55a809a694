"""What reconcile tells, explains and mends, at rest and while orders flow."""

import re
import threading

import pytest
import redis
from django.core.management import call_command
from django.db import connection

from shop import keys, reconciliation, stock
from shop.fulfilment import Busy, fulfil
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


EDITED = "the counter was edited, or units of an order that is gone are still off it"
NO_NUMBER = "the counter is no number"


@pytest.mark.parametrize(
    ("counter", "cause"),
    [
        ("17", EDITED),
        ("7", EDITED),
        ("--5", NO_NUMBER),
        ("007", NO_NUMBER),
        ("\u00b2", NO_NUMBER),
        ("many", NO_NUMBER),
        (["a list"], NO_NUMBER),
    ],
)
def test_a_counter_that_somebody_edited_is_reported_and_repaired_when_asked(
    client: "redis.Redis", counter: str | list[str], cause: str
) -> None:
    sku = a_sku(stock=10)
    stock.refresh(client, [sku])
    client.delete(keys.stock(sku))
    client.rpush(keys.stock(sku), *counter) if isinstance(counter, list) else client.set(
        keys.stock(sku), counter
    )

    reported = about(reconciliation.reconcile(client), sku)
    repaired = about(reconciliation.reconcile(client, repair=True), sku)

    assert [(each.cause, each.mended) for each in reported + repaired] == [(cause, False), (cause, True)]
    assert free_in_redis(client, sku) == 10
    assert about(reconciliation.reconcile(client), sku) == []


def test_a_version_that_postgresql_does_not_have_is_reported_and_repaired(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    client.mset({keys.stock(sku): 25, keys.version(sku): "0:1000"})

    (reported,) = about(reconciliation.reconcile(client), sku)
    reconciliation.reconcile(client, repair=True)

    assert reported.cause == "PostgreSQL went back"
    assert free_in_redis(client, sku) == 10


def test_an_order_that_waits_for_a_counter_of_an_earlier_postgresql_ends_after_a_repair(
    client: "redis.Redis",
) -> None:
    sku = a_sku(stock=10)
    client.mset({keys.stock(sku): 0, keys.version(sku): "0:1000"})
    orders = accepted(client, an_order((sku, 4)))

    waits = fulfil(orders, client=client)
    reconciliation.reconcile(client, repair=True)
    ends = fulfil(orders, client=client)

    assert list(waits.values()) == [Busy(sku=sku)]
    assert list(ends.values()) == ["confirmed"]
    assert free_in_redis(client, sku) == 6


def test_units_of_an_order_whose_worker_died_are_no_difference(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    stock.refresh(client, [sku])
    accepted(client, an_order((sku, 4)))
    client.decrby(keys.stock(sku), 4)

    assert about(reconciliation.reconcile(client, repair=True), sku) == []


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


def test_an_operator_can_have_a_sku_published_again(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    stock.refresh(client, [sku])
    client.set(keys.stock(sku), 12)

    call_command("reconcile", "--reload", sku)

    assert free_in_redis(client, sku) == 10


def test_a_movement_that_did_not_reach_redis_is_explained_and_mended(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    stock.refresh(client, [sku])
    rows(
        "move",
        request="00000000-0000-4000-8000-00000000000a",
        client="c",
        sku=sku,
        delta=5,
        reason="delivery",
        followed="",
    )

    told = about(reconciliation.reconcile(client), sku)
    mended = about(reconciliation.reconcile(client, repair=True), sku)

    assert [difference.cause for difference in told] == ["a change of stock has not reached Redis"]
    assert [difference.mended for difference in told + mended] == [False, True]
    assert free_in_redis(client, sku) == 15


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


def test_a_lock_that_lives_for_longer_than_ours_is_told(client: "redis.Redis") -> None:
    sku, ours = a_sku(), a_sku()
    client.set(keys.lock(sku), "somebody", px=90_000)
    client.set(keys.lock(ours), "an order", px=keys.LOCK_TTL_MS)

    told = " ".join(str(difference) for difference in reconciliation.reconcile(client).differences)
    left_s = client.pttl(keys.lock(sku)) / 1000

    ends_in = re.search(rf"{re.escape(keys.lock(sku))} ends in (\d+) s, held by somebody", told)
    assert ends_in
    assert round(left_s) <= int(ends_in[1]) <= 90
    assert keys.lock(ours) not in told


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
    stock.refresh(client, [sku])
    client.set(keys.stock(sku), 12)

    with pytest.raises(SystemExit) as ended:
        call_command("reconcile")
    call_command("reconcile", "--repair")
    call_command("reconcile")

    assert ended.value.code == 1


@pytest.mark.usefixtures("locks")
def test_counters_that_vanish_while_orders_flow_cost_no_unit(client: "redis.Redis") -> None:
    sku = a_sku(stock=400)
    orders = accepted(client, *(an_order((sku, 1)) for _ in range(300)))
    done = threading.Event()

    def delete() -> None:
        while not done.wait(0.003):
            client.delete(keys.stock(sku), keys.version(sku))

    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        for order in orders:
            fulfil([order], client=client)
    finally:
        done.set()
        deleting.join()
    stock.refresh(client, [sku])

    assert free_in_redis(client, sku) == 100
    assert_at_rest(client)
