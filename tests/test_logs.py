"""What the logs tell of an order: one search by its id shows its way, one by the request's id finds the order."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import a_sku, wait_until
from tests.failing import FailPoints
from tests.running import System, frozen
from workers.embedded import RedisServer


def lines(system: System, word: str) -> list[dict[str, Any]]:
    """The lines of web and worker in which a word stands, as grep finds them."""
    written = (system.log("web") + system.log("worker")).splitlines()
    return [json.loads(line) for line in written if word in line and line.startswith("{")]


def told(system: System, word: str, event: str) -> list[dict[str, Any]]:
    """Those of them that tell of an event."""
    return [line for line in lines(system, word) if line["event"] == event]


# Each test has its own worker and no other one beside it, which might take its orders.


@pytest.fixture
def talkative(tmp_path: Path) -> Iterator[System]:
    with System(tmp_path, {"LOG_ORDERS": "true"}) as running:
        yield running.start("web", "worker")


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[System]:
    with System(tmp_path) as running:
        yield running.start("web", "worker")


def placed(system: System, request: str) -> str:
    body = {"items": [{"sku": a_sku(), "quantity": 2}]}
    headers = {"Idempotency-Key": uuid.uuid4().hex, "X-Request-ID": request}
    return str(system.send("POST", "/api/v1/orders", body, headers).body["id"])


def test_one_search_by_an_order_s_id_shows_its_whole_way(talkative: System) -> None:
    order = placed(talkative, "the-request-1")
    talkative.end_of(order)
    talkative.send("POST", f"/api/v1/orders/{order}/cancel")

    wait_until(lambda: told(talkative, order, "cancellation done"))

    taken, ended, cancelled = lines(talkative, order)
    assert (taken["event"], taken["request_id"], taken["answer"]) == (
        "order taken in",
        "the-request-1",
        "Accepted",
    )
    assert (ended["event"], ended["task"], ended["status"]) == ("order ended", order, "confirmed")
    assert (cancelled["order"], cancelled["status"]) == (order, "cancelled")


def test_one_search_by_a_request_s_id_finds_the_order(talkative: System) -> None:
    order = placed(talkative, "the-request-2")

    wait_until(lambda: lines(talkative, "the-request-2"))

    assert [line["order"] for line in lines(talkative, "the-request-2")] == [order]


def test_orders_that_go_well_leave_no_line_unless_it_is_asked_for(quiet: System) -> None:
    order = placed(quiet, "the-request-3")
    quiet.end_of(order)

    assert lines(quiet, order) == lines(quiet, "the-request-3") == []


def test_a_line_about_a_store_that_is_away_has_the_ids_without_being_asked_for(
    quiet: System, redis_server: RedisServer
) -> None:
    placed(quiet, "the-request-4")  # so that the web process knows the API key

    with frozen(redis_server.pid):
        body = {"items": [{"sku": "MUG-001", "quantity": 2}]}
        headers = {"Idempotency-Key": uuid.uuid4().hex, "X-Request-ID": "the-request-5"}
        assert quiet.send("POST", "/api/v1/orders", body, headers).status == 503

    (line,) = told(quiet, "the-request-5", "store unavailable")
    assert uuid.UUID(line["order"])
    assert line["path"] == "/api/v1/orders"


@pytest.mark.usefixtures("client")  # no order of another test may come in between
def test_a_line_about_a_fault_in_a_worker_has_the_ids_without_being_asked_for(tmp_path: Path) -> None:
    with System(tmp_path, {"FAIL_POINTS": str(tmp_path)}) as system:
        system.start("web", "worker")
        points = FailPoints(tmp_path)
        points.arm("worker.after_reserve", "raise")
        points.arm("worker.received", "raise")
        order = placed(system, "the-request-6")
        system.end_of(order)

        wait_until(lambda: told(system, order, "fulfilment failed"))

        (line, *_) = told(system, order, "fulfilment failed")
    assert (line["order"], line["task"]) == (order, order)
    assert "Traceback" in line["exception"]
