"""Orders over HTTP, through the queue and back: each row of the contract's tables."""

import json
import threading
import uuid

import pytest

from shop import stock
from shop.clients import create_key
from shop.models import Order as OrderRow
from shop.stores import redis_client
from tests.builders import a_sku, assert_at_rest, at_once, free_in_redis, wait_until
from tests.running import Answer, System


def test_an_order_goes_all_the_way(system: System) -> None:
    sku = a_sku(stock=10)

    placed = system.place((sku, 3), customer="17850", reference="PO-1")
    ended = system.end_of(placed.body["id"])

    assert placed.status == 202
    assert placed.body["status"] == "queued"
    assert placed.headers["Location"] == placed.body["href"] == f"/api/v1/orders/{placed.body['id']}"
    assert int(placed.headers["Retry-After"]) >= 1
    assert ended.body["status"] == "confirmed"
    assert ended.body["items"] == [{"sku": sku, "quantity": 3}]
    assert (ended.body["customer"], ended.body["reference"]) == ("17850", "PO-1")
    assert "reason" not in ended.body
    assert_at_rest(redis_client())


@pytest.mark.parametrize("round_", range(5))
def test_product_x_has_ten_units_and_two_orders_for_eight_arrive_at_once(system: System, round_: int) -> None:
    sku = a_sku(stock=10)

    placed = at_once(lambda: system.place((sku, 8)), lambda: system.place((sku, 8)))
    ended = [system.end_of(answer.body["id"]).body for answer in placed if isinstance(answer, Answer)]

    assert sorted(body["status"] for body in ended) == ["confirmed", "rejected"]
    rejected = next(body for body in ended if body["status"] == "rejected")
    assert rejected["reason"] == {
        "code": "insufficient_stock",
        "lines": [{"sku": sku, "requested": 8, "available": 2}],
    }
    assert free_in_redis(redis_client(), sku) == 2
    assert_at_rest(redis_client())


def test_fifty_copies_of_one_request_make_one_order(system: System) -> None:
    sku, key = a_sku(stock=100), uuid.uuid4().hex

    answers = at_once(*(lambda: system.place((sku, 1), key=key) for _ in range(50)))
    ids = {answer.body["id"] for answer in answers if isinstance(answer, Answer)}

    assert len(ids) == 1
    fresh = [a for a in answers if isinstance(a, Answer) and "Idempotency-Replayed" not in a.headers]
    assert len(fresh) == 1
    assert system.end_of(ids.pop()).body["status"] == "confirmed"
    assert free_in_redis(redis_client(), sku) == 99


def test_the_same_order_written_differently_is_replayed_with_its_present_state(system: System) -> None:
    sku, other, key = a_sku(), a_sku(), uuid.uuid4().hex
    first = system.place((sku, 2), (other, 1), (sku, 1), key=key)
    system.end_of(first.body["id"])

    body = json.dumps(
        {"customer": None, "items": [{"quantity": 1, "sku": other}, {"sku": sku, "quantity": 3}]}, indent=3
    )
    again = system.send("POST", "/api/v1/orders", body.encode(), {"Idempotency-Key": f'"{key}"'})

    assert (again.status, again.body["id"], again.body["status"]) == (202, first.body["id"], "confirmed")
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_key_used_for_another_order_is_refused_and_the_first_order_stands(system: System) -> None:
    sku, key = a_sku(), uuid.uuid4().hex
    first = system.place((sku, 1), key=key)

    second = system.place((sku, 2), key=key)

    assert (second.status, second.body["type"]) == (422, "idempotency-key-reused")
    assert second.headers["Content-Type"] == "application/problem+json"
    assert system.end_of(first.body["id"]).body["items"] == [{"sku": sku, "quantity": 1}]


@pytest.mark.parametrize("forgotten", ["the key", "everything"])
def test_a_key_that_redis_lost_still_finds_its_order(system: System, forgotten: str) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    first = system.end_of(system.place((sku, 4), key=key).body["id"])
    if forgotten == "the key":
        redis_client().delete(*redis_client().scan_iter(match=f"idempotency:*:{key}"))
    else:
        wait_until(lambda: not redis_client().hlen("unacked"), what="the acknowledgement")
        redis_client().flushdb()

    again, changed = system.place((sku, 4), key=key), system.place((sku, 5), key=key)

    assert (again.status, again.body["id"], again.body["status"]) == (202, first.body["id"], "confirmed")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (changed.status, changed.body["type"]) == (422, "idempotency-key-reused")
    assert OrderRow.objects.filter(lines__sku=sku).count() == 1


def test_an_order_of_1114_lines_goes_all_the_way(system: System) -> None:
    skus = [a_sku(stock=5) for _ in range(1114)]

    ended = system.end_of(system.place(*((sku, 2) for sku in skus)).body["id"])

    assert (ended.body["status"], len(ended.body["items"])) == ("confirmed", 1114)
    assert {free_in_redis(redis_client(), sku) for sku in skus} == {3}


def test_two_clients_with_one_key_have_two_orders_and_cannot_see_each_other(system: System) -> None:
    sku, key = a_sku(), uuid.uuid4().hex
    stranger = create_key(f"stranger-{key[:8]}", ["orders"])
    body = {"items": [{"sku": sku, "quantity": 1}]}

    mine = system.place((sku, 1), key=key)
    theirs = system.send("POST", "/api/v1/orders", body, {"Idempotency-Key": key}, api_key=stranger)
    foreign = system.send("GET", mine.body["href"], api_key=stranger)
    unknown = system.send("GET", f"/api/v1/orders/{uuid.uuid4()}", api_key=stranger)

    assert mine.body["id"] != theirs.body["id"]
    assert (foreign.status, foreign.body) == (404, unknown.body)


@pytest.mark.parametrize(
    "sent", [{}, {"Idempotency-Key": ""}, {"Idempotency-Key": "x" * 256}, {"Idempotency-Key": "a, b"}]
)
def test_a_bad_idempotency_key_is_a_bad_request(system: System, sent: dict[str, str]) -> None:
    answer = system.send("POST", "/api/v1/orders", {"items": [{"sku": "A", "quantity": 1}]}, sent)

    assert (answer.status, answer.body["type"]) == (400, "invalid-idempotency-key")


def test_an_invalid_order_names_each_fault_and_leaves_the_key_unused(system: System) -> None:
    sku, key = a_sku(), uuid.uuid4().hex
    bad = {"items": [{"sku": sku, "quantity": 0}, {"sku": " x", "quantity": 1.5}], "note": 1}

    refused = system.send("POST", "/api/v1/orders", bad, {"Idempotency-Key": key})
    accepted = system.place((sku, 1), key=key)

    assert refused.status == 422
    pointers = {error["pointer"] for error in refused.body["errors"]}
    assert pointers == {"/items/0/quantity", "/items/1/sku", "/items/1/quantity", "/note"}
    assert (accepted.status, "Idempotency-Replayed" in accepted.headers) == (202, False)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b'{"items": "' + b"x" * 1_048_577 + b'"}', {}, 413),
    ],
)
def test_a_body_that_is_no_order_is_refused(
    system: System, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = system.send("POST", "/api/v1/orders", body, {"Idempotency-Key": "k", **headers})

    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_without_a_good_key_nothing_is_told_and_without_the_scope_nothing_is_done(system: System) -> None:
    stock_only = create_key(f"stock-only-{uuid.uuid4().hex[:6]}", ["stock"])

    nobody = system.send("GET", "/api/v1/products", api_key="wrong")
    unable = system.send("POST", "/api/v1/orders", {}, {"Idempotency-Key": "k"}, api_key=stock_only)

    assert (nobody.status, nobody.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert unable.status == 403


def test_a_final_answer_has_an_etag_and_is_not_sent_twice(system: System) -> None:
    ended = system.end_of(system.place((a_sku(), 1)).body["id"])

    again = system.get(ended.body["href"], {"If-None-Match": f'"other", W/{ended.headers["ETag"]}'})

    assert (again.status, again.body) == (304, "")
    assert again.headers["ETag"] == ended.headers["ETag"]


def test_prefer_wait_answers_when_the_state_changes(system: System) -> None:
    placed = system.place((a_sku(), 1))

    answer = system.get(placed.body["href"], {"Prefer": "wait=20"})

    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.body["status"] == "confirmed"


def test_prefer_wait_tells_the_queued_state_when_its_time_is_over(system: System) -> None:
    sku = a_sku()
    redis_client().set(f"lock:produto:{sku}", "somebody", px=2500)
    placed = system.place((sku, 1))

    answer = system.get(placed.body["href"], {"Prefer": "wait=1"})

    assert (answer.status, answer.body["status"]) == (200, "queued")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "ETag" not in answer.headers
    assert system.end_of(placed.body["id"]).body["status"] == "confirmed"


def test_a_confirmed_order_is_cancelled_and_its_units_return(system: System) -> None:
    sku = a_sku(stock=10)
    order = system.end_of(system.place((sku, 8)).body["id"]).body

    answers = [system.send("POST", f"{order['href']}/cancel") for _ in range(3)]
    wait_until(lambda: system.get(order["href"]).body["status"] == "cancelled", what="the cancellation")

    assert [answer.status for answer in answers] == [202, 202, 202]
    wait_until(lambda: free_in_redis(redis_client(), sku) == 10, what="the return of the units")
    assert system.send("POST", f"{order['href']}/cancel").body["status"] == "cancelled"
    wait_until(lambda: not redis_client().zcard("orders:cancelling"))
    assert_at_rest(redis_client())


def test_a_rejected_order_cannot_be_cancelled_and_an_unknown_one_is_not_found(system: System) -> None:
    rejected = system.end_of(system.place((a_sku(stock=1), 2)).body["id"]).body

    refused = system.send("POST", f"{rejected['href']}/cancel")
    missing = system.send("POST", f"/api/v1/orders/{uuid.uuid4()}/cancel")

    assert (refused.status, refused.body["type"]) == (409, "not-cancellable")
    assert missing.status == 404


def test_orders_cancelled_while_they_are_placed_end_cancelled_and_keep_nothing(system: System) -> None:
    sku = a_sku(stock=1000)
    stock.refresh(redis_client(), [sku])
    orders = []

    def place_and_cancel() -> None:
        for _ in range(10):
            order = system.place((sku, 1)).body
            assert system.send("POST", f"{order['href']}/cancel").status == 202
            orders.append(order)

    threads = [threading.Thread(target=place_and_cancel) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for order in orders:
        wait_until(
            lambda order=order: system.get(order["href"]).body["status"] == "cancelled", what=order["id"]
        )
    wait_until(lambda: free_in_redis(redis_client(), sku) == 1000, what="the return of all units")
    wait_until(lambda: not redis_client().zcard("orders:cancelling"))
    assert_at_rest(redis_client())


def test_every_answer_carries_a_request_id(system: System) -> None:
    own = system.get("/healthz", {"X-Request-ID": "abc-123"})
    made = system.get("/nowhere", {"X-Request-ID": "no good\x01"[:2] + "<script>"})

    assert own.headers["X-Request-ID"] == "abc-123"
    assert system.get("/api/v1/none", {"X-Request-ID": "<script>"}).headers["X-Request-ID"] != "<script>"
    assert made.status == 404
