"""Products, their stock, and stock movements over HTTP."""

import threading
import uuid
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.utils import timezone

from shop import intake, stock, sweeper
from shop.clients import create_key
from shop.models import Product, StockMovement
from shop.stores import redis_client, rows
from tests.builders import a_sku, assert_at_rest, at_once, free_in_redis
from tests.running import Answer, System


def move(system: System, sku: str, delta: int, key: str | None = None, reason: str = "delivery") -> Answer:
    """Move stock over HTTP."""
    path = f"/api/v1/products/{quote(sku, safe='')}/stock-movements"
    return system.send(
        "POST", path, {"delta": delta, "reason": reason}, {"Idempotency-Key": key or uuid.uuid4().hex}
    )


def test_a_list_is_walked_to_its_end_without_gaps_or_repetitions(system: System) -> None:
    mark = uuid.uuid4().hex[:8]
    skus = [a_sku(sku=f"{mark} {n:02}") for n in range(7)]

    url, seen, pages = f"/api/v1/products?q={mark}&limit=3", [], 0
    while url:
        page = system.get(url).body
        seen += [item["sku"] for item in page["items"]]
        url, pages = page["next"], pages + 1

    assert (seen, pages) == (skus, 3)


def test_a_search_finds_sku_and_name_and_takes_its_wildcards_literally(system: System) -> None:
    mark = uuid.uuid4().hex[:8]
    a_sku(sku=f"{mark}-1", name=f"100% Wool_Sock {mark}")
    a_sku(sku=f"other-{mark}", name=f"Named {mark.upper()}")

    def found(text: str) -> list[str]:
        return [item["sku"] for item in system.get(f"/api/v1/products?q={quote(text)}").body["items"]]

    assert found(mark) == [f"{mark}-1", f"other-{mark}"]
    assert found(f"100% wool_sock {mark}") == [f"{mark}-1"]
    assert found(f"100_ wool_sock {mark}") == []


@pytest.mark.parametrize("odd", ["BANK CHARGES", "a/b", "Grüße 🧦", "50%", "q?x#y"])
def test_any_sku_can_be_asked_for_percent_encoded(system: System, odd: str) -> None:
    sku = a_sku(stock=4, sku=f"{odd} {uuid.uuid4().hex[:6]} {odd}")

    answer = system.get(f"/api/v1/products/{quote(sku, safe='')}")

    assert answer.body == {"sku": sku, "name": "A product", "price": "2.50", "available": 4}


def test_an_unknown_product_is_not_found(system: System) -> None:
    assert system.get("/api/v1/products/none").status == 404
    assert move(system, "none", 1).status == 404


def test_what_is_available_follows_the_orders(system: System) -> None:
    sku = a_sku(stock=10)
    system.end_of(system.place((sku, 3)).body["id"])

    assert system.get(f"/api/v1/products/{quote(sku)}").body["available"] == 7


@pytest.mark.parametrize("delta", [10, -4])
def test_a_movement_changes_stock_once_and_leaves_an_audit_row(system: System, delta: int) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex

    made = move(system, sku, delta, key)
    again = move(system, sku, delta, key)

    assert (made.status, made.body["delta"], made.body["available"]) == (201, delta, 10 + delta)
    assert (again.status, again.body["id"], again.headers["Idempotency-Replayed"]) == (
        201,
        made.body["id"],
        "true",
    )
    row = StockMovement.objects.get(sku=sku, kind="adjustment")
    assert (row.delta, row.reason, str(row.request)) == (delta, "delivery", made.body["id"])
    assert free_in_redis(redis_client(), sku) == 10 + delta
    assert_at_rest(redis_client())


def test_a_movement_key_used_for_something_else_is_refused(system: System) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    move(system, sku, 1, key)

    refused = [move(system, sku, 2, key), move(system, sku, 1, key, "other"), move(system, a_sku(), 1, key)]

    assert [(answer.status, answer.body["type"]) for answer in refused] == [
        (422, "idempotency-key-reused")
    ] * 3
    assert free_in_redis(redis_client(), sku) == 11


def test_a_movement_needs_its_scope_and_its_key(system: System) -> None:
    path = f"/api/v1/products/{quote(a_sku())}/stock-movements"
    orders_only = create_key(f"orders-only-{uuid.uuid4().hex[:6]}", ["orders"])
    body = {"delta": 1, "reason": "x"}

    assert system.send("POST", path, body).status == 400
    assert system.send("POST", path, body, {"Idempotency-Key": "k"}, api_key=orders_only).status == 403
    assert system.send("POST", path, {"delta": 0, "reason": "x"}, {"Idempotency-Key": "k"}).status == 422


def test_a_movement_takes_nothing_that_is_promised(system: System) -> None:
    sku = a_sku(stock=10)
    system.end_of(system.place((sku, 7)).body["id"])

    refused = move(system, sku, -4)
    made = move(system, sku, -3)

    assert (refused.status, refused.body["type"]) == (409, "insufficient-stock")
    assert (made.status, made.body["available"]) == (201, 0)
    assert_at_rest(redis_client())


def test_fifty_copies_of_one_movement_count_once(system: System) -> None:
    sku, key = a_sku(stock=0), uuid.uuid4().hex

    answers: list[Any] = at_once(*(lambda: move(system, sku, 5, key) for _ in range(50)))

    assert {answer.status for answer in answers} <= {201, 503}
    assert len({answer.body["id"] for answer in answers if answer.status == 201}) == 1
    assert free_in_redis(redis_client(), sku) == 5
    assert StockMovement.objects.filter(sku=sku, kind="adjustment").count() == 1


def test_withdrawals_and_deliveries_during_a_sale_keep_every_unit_accounted_for(system: System) -> None:
    sku = a_sku(stock=40)
    moved: list[Answer] = []

    def restock() -> None:
        moved.extend(move(system, sku, delta) for delta in (-5, 10, -7, 20, -30, 3))

    mover = threading.Thread(target=restock)
    mover.start()
    ids = [system.place((sku, 1)).body["id"] for _ in range(60)]
    statuses = [system.end_of(order_id).body["status"] for order_id in ids]
    mover.join()

    put_on_sale = 40 + sum(answer.body["delta"] for answer in moved if answer.status == 201)
    assert {answer.status for answer in moved} <= {201, 409}
    assert free_in_redis(redis_client(), sku) == put_on_sale - statuses.count("confirmed")
    assert_at_rest(redis_client())


def test_a_movement_whose_process_died_before_redis_heard_is_published_by_the_sweeper(
    system: System,
) -> None:
    sku = a_sku(stock=10)
    stock.refresh(redis_client(), [sku])
    rows("move", request=str(uuid.uuid4()), client="c", sku=sku, delta=5, reason="delivery", followed="")
    before = free_in_redis(redis_client(), sku)
    Product.objects.filter(sku=sku).update(changed_at=timezone.now() - timedelta(seconds=5))

    sweeper.publish_recent_stock(redis_client())

    assert (before, free_in_redis(redis_client(), sku)) == (10, 15)


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=ten", "cursor=%21", "cursor=IA", "q=%00"])
def test_a_page_that_cannot_be_is_refused(system: System, query: str) -> None:
    answer = system.get(f"/api/v1/products?{query}")

    assert (answer.status, answer.body["type"]) == (400, "invalid-request")


def test_one_withdrawal_among_fifty_orders_at_once_sells_nothing_twice(system: System) -> None:
    sku = a_sku(stock=40)

    answers: list[Any] = at_once(
        lambda: move(system, sku, -25), *(lambda: system.place((sku, 1)) for _ in range(50))
    )

    taken = 25 if answers[0].status == 201 else 0
    ends = [system.end_of(answer.body["id"]).body["status"] for answer in answers[1:]]
    assert answers[0].status in {201, 409, 503}
    assert ends.count("confirmed") == 40 - taken
    assert free_in_redis(redis_client(), sku) == 0
    assert_at_rest(redis_client())


@pytest.mark.parametrize("delta", [6, -6])
@pytest.mark.parametrize("died", ["before the books", "after the books"])
def test_a_movement_whose_process_died_is_finished_by_its_next_copy(
    system: System, died: str, delta: int
) -> None:
    sku, key, owner = a_sku(stock=10), uuid.uuid4().hex, f"mover-{uuid.uuid4().hex[:8]}"
    api_key = create_key(owner, ["stock"])
    request = intake.derived_id("stock movement", owner, key)
    stock.refresh(redis_client(), [sku])
    if died == "after the books":
        rows("move", request=request, client=owner, sku=sku, delta=delta, reason="delivery", followed="")

    path = f"/api/v1/products/{quote(sku)}/stock-movements"
    body = {"delta": delta, "reason": "delivery"}
    answer = system.send("POST", path, body, {"Idempotency-Key": key}, api_key=api_key)

    assert (answer.status, answer.body["id"], answer.body["available"]) == (201, request, 10 + delta)
    assert ("Idempotency-Replayed" in answer.headers) == (died == "after the books")
    assert free_in_redis(redis_client(), sku) == 10 + delta
    assert_at_rest(redis_client())
