"""An order's way as a trace: what is told of it, to whom, what it may cost, and what it never holds."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shop import keys
from shop.domain import Order
from shop.stores import redis_client
from tests.builders import a_sku, an_order, wait_until
from tests.failing import FailPoints, on_sale
from tests.otlp import Collector, Told, a_collector
from tests.running import Answer, System
from tests.shopper import Shopper
from workers.ports import free_port


@pytest.fixture
def collector() -> Iterator[Collector]:
    with a_collector() as running:
        yield running


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Collector]]:
    """A system and who hears of its orders, for tests that each look at traces of their own."""
    folder = tmp_path_factory.mktemp("traced")
    with a_collector() as collector, a_system(folder, collector) as system:
        yield system.start("web", "worker"), collector


@contextmanager
def a_system(folder: Path, collector: Collector, **env: str) -> Iterator[System]:
    """A system that tells the collector of its orders. It is not started."""
    redis_client().flushdb()
    with System(folder, {**collector.env, **env}) as system:
        yield system


def a_client_s_trace(*, is_sampled: bool = True) -> tuple[str, str, str]:
    """The trace and the span of a client that is about to order, and the header that tells of them."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, f"00-{trace}-{span}-{'01' if is_sampled else '00'}"


def placed(system: System, sku: str, units: int = 1, traceparent: str = "", key: str = "") -> Answer:
    """An order of a client that is traced itself, if it says so."""
    headers = {
        "Idempotency-Key": key or uuid.uuid4().hex,
        **({"traceparent": traceparent} if traceparent else {}),
    }
    body = {"items": [{"sku": sku, "quantity": units}]}
    return system.send("POST", "/api/v1/orders", body, headers)


def the(spans: Sequence[Told]) -> Told:
    """The only one of them."""
    (span,) = spans
    return span


# --- what is told ---------------------------------------------------------------------------------


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


def test_orders_that_are_worked_on_together_each_have_their_end_and_lead_to_the_one_batch(
    tmp_path: Path, collector: Collector
) -> None:
    with a_system(tmp_path, collector) as system:
        system.start("web")
        sku = on_sale(100)
        traces = [a_client_s_trace() for _ in range(20)]
        orders = [placed(system, sku, 1, traceparent).body["id"] for *_, traceparent in traces]
        system.start("worker")
        for order in orders:
            system.end_of(order)
        wait_until(lambda: len(collector.named("fulfil order")) == len(orders))

    batches = {batch.id: batch for batch in collector.named("fulfil batch")}
    ends = [the(collector.of_order(order)) for order in orders]
    assert [end.trace for end in ends] == [trace for trace, *_ in traces]
    assert sum(batch.attributes["messaging.batch.message_count"] for batch in batches.values()) == 20
    assert max(batch.attributes["messaging.batch.message_count"] for batch in batches.values()) > 1
    for end in ends:
        batch = batches[the_link(end)]
        assert end.trace == batch.trace or end.trace in {trace for trace, _ in batch.links}


def the_link(span: Told) -> str:
    """The id of the only span that a span is linked to."""
    ((_, linked),) = span.links
    return linked


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


def test_a_batch_that_failed_is_told_and_the_order_s_end_is_in_the_same_trace(
    tmp_path: Path, collector: Collector
) -> None:
    trace, _, traceparent = a_client_s_trace()
    with a_system(tmp_path, collector, FAIL_POINTS=str(tmp_path)) as system:
        system.start("web", "worker")
        with FailPoints(tmp_path).armed("worker.after_reserve", "raise"):
            order = placed(system, a_sku(), 1, traceparent).body["id"]
            system.end_of(order)
        wait_until(lambda: collector.of_order(order))

    failed, done = sorted(collector.named("fulfil batch", trace), key=lambda batch: batch.begun)
    assert (failed.is_error, failed.attributes["error.type"]) == (True, "FailPointReached")
    assert (done.is_error, the(collector.of_order(order)).links) == (False, [(trace, done.id)])


def test_an_order_whose_message_was_lost_goes_on_in_its_trace(tmp_path: Path, collector: Collector) -> None:
    trace, _, traceparent = a_client_s_trace()
    with a_system(tmp_path, collector, SWEEP_AFTER_MS="200") as system:
        system.start("web")
        order = placed(system, a_sku(), 1, traceparent).body["id"]
        redis_client().delete(keys.ORDER_QUEUE)
        system.start("worker", "scheduler")
        system.end_of(order)
        wait_until(lambda: collector.of_order(order))

    assert the(collector.of_order(order)).trace == trace


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


def test_log_lines_within_a_trace_bear_its_id(tmp_path: Path, collector: Collector) -> None:
    trace, _, traceparent = a_client_s_trace()
    with a_system(tmp_path, collector, LOG_ORDERS="true") as system:
        system.start("web", "worker")
        order = placed(system, a_sku(), 1, traceparent).body["id"]
        system.end_of(order)
        wait_until(lambda: "order ended" in system.log("worker"))
        written = (system.log("web") + system.log("worker")).splitlines()

    lines = [json.loads(line) for line in written if order in line]
    assert {line["event"]: line.get("trace_id") for line in lines} == {
        "order taken in": trace,
        "order ended": trace,
    }


# --- what is not told -----------------------------------------------------------------------------


def test_nothing_of_persons_and_no_key_leaves_the_shop(tmp_path: Path, collector: Collector) -> None:
    key = uuid.uuid4().hex
    with a_system(tmp_path, collector) as system:
        system.start("web", "worker")
        body = {"items": [{"sku": a_sku(), "quantity": 1}], "customer": "Ada-17850", "reference": "Ref-4711"}
        headers = {"Idempotency-Key": key, "X-Request-ID": "Ada.Lovelace", "baggage": "user=Ada-Lovelace"}
        order = system.send("POST", "/api/v1/orders?who=Ada-Byron", body, headers).body["id"]
        system.send("POST", "/orders/Ada-King", b"", {})
        system.end_of(order)
        wait_until(lambda: collector.of_order(order) and len(collector.named("POST")) == 1)
        client = json.loads(redis_client().hget(keys.order(order), "document") or "")["client"]

    told = b"".join(collector.raw)
    assert order.encode() in told
    for secret in (key, system.api_key, client, "Ada", "Ref-4711", "17850"):
        assert secret.encode() not in told


def test_the_standard_sampler_decides_which_orders_are_traced(tmp_path: Path, collector: Collector) -> None:
    *_, unwanted = a_client_s_trace(is_sampled=False)
    trace, _, wanted = a_client_s_trace()
    with a_system(tmp_path, collector, OTEL_TRACES_SAMPLER="parentbased_always_off") as system:
        system.start("web", "worker")
        sku = a_sku()
        orders = [placed(system, sku, 1, header).body["id"] for header in ("", unwanted, wanted)]
        documents = [redis_client().hget(keys.order(order), "document") or "" for order in orders]
        for order in orders:
            system.end_of(order)
        wait_until(lambda: collector.of_order(orders[-1]))
        assert system.stop("web")
        assert system.stop("worker")

    assert {span.trace for span in collector.spans} == {trace}
    assert ["trace" in document for document in documents] == [False, False, True]


# --- what it may cost -----------------------------------------------------------------------------


def test_what_was_not_sent_yet_is_sent_at_the_end(tmp_path: Path, collector: Collector) -> None:
    with a_system(tmp_path, collector, OTEL_BSP_SCHEDULE_DELAY="3600000") as system:
        system.start("web", "worker")
        order = placed(system, a_sku()).body["id"]
        system.end_of(order)
        assert collector.spans == []

        assert system.stop("web")
        assert system.stop("worker")

    assert len(collector.named("POST /api/v1/orders")) == len(collector.of_order(order)) == 1


@contextmanager
def nobody() -> Iterator[str]:
    """An address at which nobody listens."""
    yield f"http://127.0.0.1:{free_port()}"


@contextmanager
def a_silent_one() -> Iterator[str]:
    """One that takes connections, and whatever comes, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("endpoint", [nobody, a_silent_one])
def test_an_endpoint_that_does_not_answer_costs_no_order_and_no_time(tmp_path: Path, endpoint: Any) -> None:
    redis_client().flushdb()
    with endpoint() as url:
        env = Collector(url=url).env | {
            "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }
        with System(tmp_path, env) as system:
            system.start("web", "worker")
            sku = on_sale(100)
            began = time.monotonic()
            orders = [placed(system, sku).body["id"] for _ in range(50)]
            ends = {system.end_of(order).body["status"] for order in orders}
            took_s = time.monotonic() - began

            began = time.monotonic()
            stopped = [system.stop("web"), system.stop("worker")]
            stopping_s = time.monotonic() - began

    assert ends == {"confirmed"}
    # An export may take 10 s.
    assert took_s < 8
    assert (stopped, stopping_s < 12) == ([True, True], True)


def modules_loaded(code: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
    """What a process of ours that has begun says about OpenTelemetry; `code` runs before."""
    # redis-py loads some of the rest where it finds it.
    code += "; import django, sys; django.setup(); print('opentelemetry.sdk.trace' in sys.modules)"
    return subprocess.run(
        [sys.executable, "-c", code.lstrip("; ")],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=True,
    )


def test_nothing_of_it_is_loaded_where_it_is_not_wished_for() -> None:
    wished = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}

    assert modules_loaded().stdout.strip() == "False"
    assert modules_loaded(**wished).stdout.strip() == "True"


def test_a_shop_without_the_extra_says_so_and_goes_on() -> None:
    done = modules_loaded(
        "import sys; sys.modules['opentelemetry'] = None", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1"
    )

    assert "the extra `otel` is not installed" in done.stderr


# --- how it travels -------------------------------------------------------------------------------


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
