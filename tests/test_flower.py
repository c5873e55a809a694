"""What an operator sees in Flower: each order, under its own id, with the truth about it."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shop import keys, queue
from shop.stores import redis_client
from tests.builders import a_sku, an_order, wait_until
from tests.preloaded import preloaded
from tests.running import System
from workers.ports import free_port
from workers.processes import Child, Part


class Flower:
    """A running Flower, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, login: str | None = "operator:secret") -> tuple[int, Any]:
        """Status and body of an answer to GET."""
        return self._ask("GET", path, login)

    def post(self, path: str, login: str | None = "operator:secret") -> tuple[int, Any]:
        """The same of an answer to POST, with which Flower has things done."""
        return self._ask("POST", path, login)

    def _ask(self, method: str, path: str, login: str | None) -> tuple[int, Any]:
        request = urllib.request.Request(self.url + path, method=method)
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

    def listens_on(self, address: str) -> bool:
        """Whether it takes connections on another address of this machine."""
        try:
            socket.create_connection((address, self._port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    def task(self, task_id: str) -> dict[str, Any]:
        """What is known of a task; empty while nothing is."""
        status, body = self.get(f"/api/task/info/{task_id}")
        return body if status == 200 else {}


FLOWER = [sys.executable, "-m", "celery", "--app=workers.app", "flower"]


@contextmanager
def running_flower(folder: Path, *options: str, **env: str) -> Iterator[Flower]:
    """Flower as anybody starts it, behind a password."""
    port = free_port()
    running = Flower(port)
    part = Part(
        name="flower",
        argv=[*FLOWER, f"--port={port}", *options],
        log=folder / f"flower-{port}.log",
        env={"FLOWER_BASIC_AUTH": "operator:secret", "PYTHONPATH": os.getcwd(), **env},
        is_ready=lambda: running.get("/healthcheck")[0] == 200,
    )
    child = Child(part, run=preloaded().run)
    try:
        child.wait_ready()
        yield running
    finally:
        child.stop()


@pytest.fixture(scope="module")
def flower(system: System) -> Iterator[Flower]:
    """Flower beside the system under test."""
    with running_flower(system.folder) as running:
        yield running


def worker_in(flower: Flower) -> str:
    """The name of the worker that Flower sees online."""
    names: list[str] = []

    def seen() -> bool:
        _, found = flower.get("/workers?json=1")
        names[:] = [each["hostname"] for each in found["data"] if each.get("status")]
        return bool(names)

    wait_until(seen, what="a worker in Flower")
    return names[0]


def test_flower_opens_to_its_password_alone(flower: Flower) -> None:
    statuses = [flower.get("/workers", login)[0] for login in (None, "operator:wrong", "operator:secret")]

    assert statuses == [401, 401, 200]


#: What Flower shows without a password, because it says nothing: "OK", its own style sheets, and the way to sign in or out.
SAYS_NOTHING = {"/healthcheck", "/static/x", "/login", "/logout", "x"}


def addresses_of_flower() -> list[str]:
    """One address for each of Flower's handlers."""
    from flower.urls import handlers

    routes = [each[0] if isinstance(each, tuple) else each.regex.pattern for each in handlers]
    return [re.sub(r"\(?\.[*+]\)?", "x", route.removesuffix("$")).removesuffix("/?") for route in routes]


def test_without_the_password_no_address_of_flower_shows_anything(flower: Flower) -> None:
    addresses = {address for address in addresses_of_flower() if address not in SAYS_NOTHING}
    told = {address: flower.get(address, login=None)[0] for address in addresses}
    told |= {f"POST {address}": flower.post(address, login=None)[0] for address in addresses}

    assert {"/", "/tasks", "/task/x", "/api/workers", "/metrics"} <= addresses
    assert {address: status for address, status in told.items() if status not in {401, 405}} == {}
    assert flower.get("/healthcheck", login=None) == (200, "OK")
    assert flower.get("/metrics")[0] == 200


def test_flower_listens_on_this_machine_alone(flower: Flower) -> None:
    assert not flower.listens_on("127.0.0.2")


def test_flower_as_it_comes_would_be_open_to_anyone(system: System) -> None:
    nothing = system.folder / "nothing.py"
    nothing.touch()

    with running_flower(system.folder, FLOWER_CONF=str(nothing), FLOWER_BASIC_AUTH="") as careless:
        assert careless.get("/metrics", login=None)[0] == 200
        assert careless.listens_on("127.0.0.2")


@pytest.mark.parametrize("options", [(), ("--conf=workers/flower.py",)])
def test_flower_does_not_start_without_a_password(options: tuple[str, ...]) -> None:
    env = {**os.environ, "FLOWER_BASIC_AUTH": ""}

    ended = subprocess.run(
        [*FLOWER, *options], env=env, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("Flower needs a login: set FLOWER_BASIC_AUTH=")
    assert "Traceback" not in ended.stderr


def read_by_flower(monkeypatch: pytest.MonkeyPatch, **told: Any) -> str:
    """The address on which Flower would listen with these options. Raises SystemExit where it is refused."""
    import flower.options  # noqa: F401 - first, because it defines options of its own
    import tornado.options

    given = {"basic_auth": ["operator:secret"], "auth": "", "address": "", **told}
    options = tornado.options.OptionParser()
    for name, value in given.items():
        options.define(name, default=value, type=str, multiple=isinstance(value, list))
    monkeypatch.setattr(tornado.options, "options", options)
    options.parse_config_file("workers/flower.py", final=False)
    return str(options.address)


@pytest.mark.parametrize(
    "logins",
    [[], [""], [":"], ["operator"], ["operator:"], [":secret"], ["operator: "], ["operator:secret", ":"]],
)
def test_half_a_login_is_none(logins: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="FLOWER_BASIC_AUTH"):
        read_by_flower(monkeypatch, basic_auth=logins)


def test_flower_starts_with_accounts_of_somebody_else_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_by_flower(monkeypatch, basic_auth=[], auth="me@example.com") == "127.0.0.1"


def test_flower_listens_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_by_flower(monkeypatch, address="0.0.0.0") == "0.0.0.0"


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


#: Everything by which Flower's API changes workers and tasks (its `api/control.py` and `api/tasks.py`).
COMMANDS = [
    "worker/shutdown/{worker}",
    "worker/pool/restart/{worker}",
    "worker/pool/grow/{worker}?n=1",
    "worker/pool/shrink/{worker}?n=1",
    "worker/pool/autoscale/{worker}?min=1&max=2",
    "worker/queue/add-consumer/{worker}?queue=x",
    "worker/queue/cancel-consumer/{worker}?queue=orders",
    "task/apply/tasks.maintenance.sweep",
    "task/async-apply/tasks.maintenance.sweep",
    "task/send-task/tasks.maintenance.sweep",
    "task/abort/x",
    "task/timeout/tasks.orders.fulfil_order?workername={worker}&hard=1",
    "task/rate-limit/tasks.orders.fulfil_order?workername={worker}&ratelimit=1",
    "task/revoke/x?terminate=true",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_who_watches_cannot_touch_a_worker_or_a_task(system: System, flower: Flower, command: str) -> None:
    worker = worker_in(flower)

    status, _ = flower.post(f"/api/{command.format(worker=worker)}")

    assert status == 403
    assert system.end_of(system.place((a_sku(), 1)).body["id"]).body["status"] == "confirmed"


def test_every_command_of_flower_is_known_to_these_tests() -> None:
    from flower.urls import handlers

    api = {each[0]: each[1] for each in handlers if isinstance(each, tuple) and each[0].startswith("/api/")}
    changing = {path.rsplit("/", 1)[0] for path, handler in api.items() if "post" in vars(handler)}

    assert changing == {f"/api/{command.split('?')[0].rsplit('/', 1)[0]}" for command in COMMANDS}


def test_the_list_of_tasks_leads_with_the_order_s_id_and_tells_its_result(flower: Flower) -> None:
    _, page = flower.get("/tasks")

    columns = [part.split('"')[0] for part in page.split('data-column="')[1:]]
    assert columns[:4] == ["uuid", "name", "state", "result"]


def test_where_flower_is_told_to_it_does_shut_a_worker_down(system: System) -> None:
    with running_flower(system.folder, FLOWER_READ_ONLY="false") as commanding:
        worker = worker_in(commanding)
        wait_until(lambda: worker in commanding.get("/api/workers")[1], what="what Flower asks of a worker")

        status, _ = commanding.post(f"/api/worker/shutdown/{worker}")

        assert status == 200
        wait_until(lambda: not system.is_up("worker"), what="the end of the worker")
    system.stop("worker")
    system.start("worker")
