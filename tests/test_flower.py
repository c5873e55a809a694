"""What an operator sees in Flower: each order, under its own id, with the truth about it."""

import base64
import json
import os
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from shop import keys, queue
from shop.stores import redis_client
from tests.builders import a_sku, an_order, wait_until
from tests.running import System
from workers.ports import free_port
from workers.processes import Child, Part


class Flower:
    """A running Flower, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, login: str | None = "operator:secret") -> tuple[int, Any]:
        """Status and body of an answer."""
        request = urllib.request.Request(self.url + path)
        if login:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                body = response.read()
                return response.status, json.loads(body) if body[:1] == b"{" else body.decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, None
        except OSError:
            return 0, None

    def task(self, task_id: str) -> dict[str, Any]:
        """What is known of a task; empty while nothing is."""
        status, body = self.get(f"/api/task/info/{task_id}")
        return body if status == 200 else {}


@pytest.fixture(scope="module")
def flower(system: System) -> Iterator[Flower]:
    """Flower beside the system under test, behind a password."""
    port = free_port()
    running = Flower(port)
    argv = ["celery", "-A", "workers.app", "flower", "--address=127.0.0.1", f"--port={port}"]
    part = Part(
        name="flower",
        argv=[sys.executable, "-m", *argv],
        log=system.folder / "flower.log",
        env={"FLOWER_BASIC_AUTH": "operator:secret", "PYTHONPATH": os.getcwd()},
        is_ready=lambda: running.get("/healthcheck")[0] == 200,
    )
    child = Child(part)
    try:
        child.wait_ready()
        yield running
    finally:
        child.stop()


def test_flower_opens_to_its_password_alone(flower: Flower) -> None:
    statuses = [flower.get("/workers", login)[0] for login in (None, "operator:wrong", "operator:secret")]

    assert statuses == [401, 401, 200]


@pytest.mark.parametrize(("units", "result"), [(1, "confirmed"), (100, "rejected")])
def test_an_order_is_a_task_that_is_found_by_the_order_s_id(
    system: System, flower: Flower, units: int, result: str
) -> None:
    order = system.place((a_sku(stock=10), units)).body

    wait_until(lambda: flower.task(order["id"]).get("state") == "SUCCESS", what="success in Flower")

    task = flower.task(order["id"])
    assert (task["name"], task["result"].strip("'")) == ("tasks.orders.fulfil_order", result)
    assert task["runtime"] > 0
    assert flower.get(f"/task/{order['id']}")[0] == 200


def test_an_order_that_was_given_up_is_a_failure(system: System, flower: Flower) -> None:
    sku = a_sku(stock=10)
    redis_client().set(f"lock:produto:{sku}", "somebody", px=3000)
    order = system.place((sku, 1)).body
    redis_client().hset(f"order:{order['id']}", "attempts", 99)

    wait_until(lambda: flower.task(order["id"]).get("state") == "FAILURE", what="failure in Flower")

    assert "OrderFailed" in flower.task(order["id"])["exception"]
    assert system.get(order["href"]).body["reason"]["code"] == "too_many_attempts"


@pytest.mark.parametrize("garbage", ["no order", "unstorable text", "no lines"])
def test_a_message_that_is_no_order_is_a_failure_too(system: System, flower: Flower, garbage: str) -> None:
    order = msgspec.to_builtins(an_order((a_sku(), 1)))
    document = {
        "no order": {"no": "order"},
        "unstorable text": {**order, "reference": "\0"},
        "no lines": {**order, "lines": []},
    }[garbage]

    task_id = str(uuid.uuid4())
    redis_client().lpush(keys.ORDER_QUEUE, queue.message(queue.FULFIL_TASK, task_id, document))

    wait_until(lambda: flower.task(task_id).get("state") == "FAILURE", what="failure in Flower")

    assert "NotAnOrder" in flower.task(task_id)["exception"]
