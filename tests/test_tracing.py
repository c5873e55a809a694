"""An order's way as a trace: what is told of it."""

import json
import uuid
from collections.abc import Iterator

import msgspec
import pytest

from shop import keys
from shop.domain import Order
from shop.stores import redis_client
from tests.builders import a_sku, an_order, wait_until
from tests.failing import on_sale
from tests.otlp import Collector, a_client_s_trace, a_collector, a_system, placed, the
from tests.running import System
from tests.shopper import Shopper


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Collector]]:
    """A system and who hears of its orders, for tests that each look at traces of their own."""
    folder = tmp_path_factory.mktemp("traced")
    with a_collector() as collector, a_system(folder, collector) as system:
        yield system.start("web", "worker"), collector


def test_an_order_is_one_trace_from_its_client_s_request_to_its_end(
    listening: tuple[System, Collector],
) -> None:
    system, collector = listening
    trace, client_span, traceparent = a_client_s_trace()

    order = placed(system, a_sku(), 2, traceparent).body["id"]
    system.end_of(order)
    wait_until(lambda: len({span.name for span in collector.spans if span.trace == trace}) == 7)

    request = the(collector.named("POST /api/v1/orders", trace))
    waiting = the(collector.named("wait in line", trace))
    end = the(collector.named("fulfil order", trace))
    batch = the(collector.named("fulfil batch", trace))
    steps = [the(collector.named(name, trace)) for name in ("reserve", "decide", "settle")]
    assert request.parent == client_span
    assert {span.parent for span in (waiting, end, batch)} == {request.id}
    assert {step.parent for step in steps} == {batch.id}
    assert end.links == [(trace, batch.id)]
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/v1/orders",
        "http.response.status_code": 202,
        "reserva.intake": "accepted",
        "reserva.order.id": order,
    }
    assert end.attributes == {
        "reserva.order.id": order,
        "reserva.order.lines": 1,
        "reserva.order.status": "confirmed",
    }
    assert batch.attributes["messaging.batch.message_count"] == 1
    assert (request.service, end.service) == ("reserva-web", "reserva-worker")
    moments = [waiting.begun, waiting.ended, *(at for step in steps for at in (step.begun, step.ended))]
    assert [*moments, end.ended] == sorted([*moments, end.ended])
    assert (waiting.ended, batch.ended) == (end.begun, end.ended)


def test_a_client_that_has_no_trace_or_a_broken_one_gets_one_of_its_own(
    listening: tuple[System, Collector],
) -> None:
    system, collector = listening
    broken = f"00-{'0' * 32}-{'1' * 16}-01"

    orders = [placed(system, a_sku(), 1, header).body["id"] for header in ("", broken, "x" * 999)]

    wait_until(lambda: all(map(collector.of_request, orders)))
    requests = [the(collector.of_request(order)) for order in orders]
    assert {span.parent for span in requests} == {""}
    assert len({span.trace for span in requests} - {"0" * 32}) == len(orders)


@pytest.mark.parametrize(("stock", "reason"), [(1, "insufficient_stock"), (None, "unknown_sku")])
def test_a_trace_tells_why_an_order_was_rejected(
    listening: tuple[System, Collector], stock: int | None, reason: str
) -> None:
    system, collector = listening
    order = placed(system, a_sku(stock), 2).body["id"]

    wait_until(lambda: collector.of_order(order))

    end = the(collector.of_order(order))
    assert end.attributes["reserva.order.status"] == "rejected"
    assert end.attributes["reserva.order.reason"] == reason
    assert not end.is_error


def test_an_order_from_the_storefront_is_traced_from_its_form_on(listening: tuple[System, Collector]) -> None:
    system, collector = listening
    shopper, sku = Shopper(system), on_sale(1)
    basket = shopper.post("/basket", shopper.get("/"), sku=sku, quantity="1")

    order = uuid.UUID(shopper.post("/orders", basket).headers["url"].rpartition("/")[2])

    wait_until(lambda: collector.of_order(str(order)))
    trace = the(collector.of_order(str(order))).trace
    wait_until(lambda: collector.named("POST /orders", trace))
    assert the(collector.named("POST /orders", trace)).attributes["reserva.intake"] == "accepted"


def test_what_was_refused_or_asked_again_is_told_of_by_its_request_alone(
    listening: tuple[System, Collector],
) -> None:
    system, collector = listening
    trace, _, traceparent = a_client_s_trace()
    sku, key = a_sku(), uuid.uuid4().hex
    order = placed(system, sku, 1, traceparent, key).body["id"]
    placed(system, sku, 1, traceparent, key)
    placed(system, sku, 2, traceparent, key)
    placed(system, sku, 0, traceparent, key)
    system.end_of(order)

    wait_until(lambda: len(collector.named("POST /api/v1/orders", trace)) == 4 and collector.of_order(order))

    told = [span.attributes for span in collector.named("POST /api/v1/orders", trace)]
    assert [(each.get("reserva.intake"), each["http.response.status_code"]) for each in told] == [
        ("accepted", 202),
        ("replayed", 202),
        ("reused", 422),
        (None, 422),
    ]
    assert len(collector.of_order(order)) == 1


def test_waiting_for_a_lock_and_for_a_pause_to_end_leaves_no_spans_but_the_last(
    listening: tuple[System, Collector],
) -> None:
    system, collector = listening
    trace, _, traceparent = a_client_s_trace()
    sku = on_sale(10)
    redis_client().set(keys.lock(sku), "somebody", px=1500)
    redis_client().set(keys.pause("fulfilment"), "{}")
    order = placed(system, sku, 1, traceparent).body["id"]
    wait_until(lambda: redis_client().hlen("unacked"), what="a worker that has the order in hand")
    redis_client().delete(keys.pause("fulfilment"))
    system.end_of(order)

    wait_until(lambda: collector.of_order(order))

    waiting = the(collector.named("wait in line", trace))
    assert waiting.ended - waiting.begun > 10**9
    assert len(collector.named("fulfil batch", trace)) == 1


def test_an_order_that_has_no_trace_travels_as_it_always_did() -> None:
    document = json.loads(msgspec.json.encode(an_order(("A", 1))))

    assert set(document) == {
        *("id", "client", "lines", "fingerprint", "accepted_at_ms", "customer", "reference"),
    }


def test_a_trace_travels_in_the_order_itself_whichever_broker_bears_it() -> None:
    *_, traceparent = a_client_s_trace()
    order = msgspec.structs.replace(an_order(("A", 1)), trace=traceparent)

    assert msgspec.convert(msgspec.to_builtins(order), Order) == order
    assert msgspec.json.decode(msgspec.json.encode(order), type=Order) == order
