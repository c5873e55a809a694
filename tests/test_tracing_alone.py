"""Traces of systems of their own: batches, faults, what is never told, and what it may cost."""

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shop import keys, queue
from shop.stores import redis_client
from tests.builders import a_sku, accepted, an_order, status_in_books, wait_until
from tests.failing import FailPoints, on_sale
from tests.otlp import Collector, Told, a_client_s_trace, a_collector, a_system, placed, the
from tests.running import System
from workers.ports import free_port


@pytest.fixture
def collector() -> Iterator[Collector]:
    with a_collector() as running:
        yield running


def the_link(span: Told) -> str:
    """The id of the only span that a span is linked to."""
    ((_, linked),) = span.links
    return linked


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


def test_what_the_sweeper_enqueues_again_goes_on_in_its_trace(tmp_path: Path, collector: Collector) -> None:
    trace, _, traceparent = a_client_s_trace()
    with a_system(tmp_path, collector, SWEEP_AFTER_MS="200") as system:
        system.start("web")
        order = placed(system, a_sku(), 1, traceparent).body["id"]
        redis_client().delete(keys.ORDER_QUEUE)
        system.start("worker", "scheduler")
        system.end_of(order)
        wait_until(lambda: collector.of_order(order))

    assert the(collector.of_order(order)).trace == trace


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


def test_a_message_with_a_trace_that_is_none_is_an_order_like_any_other(
    tmp_path: Path, collector: Collector
) -> None:
    with a_system(tmp_path, collector, LOG_ORDERS="true") as system:
        sku = on_sale(10)
        traces = ["x", "", "00-1-2", "00-é", "x" * 100_000, f"00-{'0' * 32}-{'0' * 16}-01"]
        orders = [msgspec.structs.replace(an_order((sku, 1)), trace=trace) for trace in traces]
        redis_client().lpush(keys.ORDER_QUEUE, *map(queue.fulfil_message, accepted(redis_client(), *orders)))
        system.start("worker")
        wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="the end of each")
        wait_until(lambda: system.log("worker").count("order ended") == len(orders))
        assert system.stop("worker")

    assert [status_in_books(order) for order in orders] == ["confirmed"] * len(orders)
    assert collector.spans == []


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
