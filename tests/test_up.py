"""`make up`: one command runs the whole system, mends it, stops it, and has the data still there."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from shop.management.system import WEB_NICENESS
from tests.builders import wait_until
from workers.embedded import RedisServer
from workers.ports import free_port
from workers.proc import is_running, marked_with, working_in
from workers.sign_of_life import SILENT_S
from workers.supervisor import MARK

ROOT = Path(__file__).parent.parent
#: Would make `up` use the servers of the tests instead of its own.
ADDRESSES = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "SECRET_KEY", "ORDER_ID_SECRET")


class Up:
    """A `manage.py up` with its own data and ports."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in ADDRESSES}
        ports = {"WEB_PORT": str(free_port()), "FLOWER_PORT": str(free_port())}
        self.data_dir = data_dir
        self.environment = inherited | ports | {"DATA_DIR": str(data_dir)} | environment

    def start(self) -> None:
        command = [sys.executable, "manage.py", "up"]
        self._output = (self.data_dir / "output.txt").open("w+")
        self._process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=self._output)
        wait_until((self.data_dir / "up.json").exists, timeout_s=90, what="`up` to be ready")

    def stop(self) -> int:
        """Stop it as an operator does; returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        self._output.close()
        return self._process.wait(timeout=60)

    @property
    def output(self) -> str:
        return (self.data_dir / "output.txt").read_text()

    @property
    def status(self) -> dict[str, Any]:
        return json.loads((self.data_dir / "up.json").read_text())

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )

    def order(self, sku: str) -> str:
        """Order one unit; returns the order's path."""
        body = json.dumps({"items": [{"sku": sku, "quantity": 1}]}).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        return self._ask("/api/v1/orders", headers, body)["href"]

    def accepted(self, sku: str) -> str:
        """`order`, sent again while the answer is 503: a new process refuses what had waited too long for it."""
        orders: list[str] = []

        def is_accepted() -> bool:
            with suppress(HTTPError):
                orders.append(self.order(sku))
            return bool(orders)

        wait_until(is_accepted, what="an order to be accepted")
        return orders[0]

    def outcome(self, order: str) -> str:
        """The order's state, as soon as it has ended."""
        return self._ask(order, {"Prefer": "wait=20"})["status"]

    def counted(self, cause: str) -> list[str]:
        """Parts of which a process was replaced."""
        with urllib.request.urlopen(f"{self.status['web_url']}/metrics", timeout=30) as response:
            text = response.read().decode()
        return re.findall(rf'replacements_total{{cause="{cause}",part="(\w+)"}} [1-9]', text)

    def _ask(self, path: str, headers: dict[str, str], body: bytes | None = None) -> dict[str, Any]:
        headers = headers | {"Authorization": f"Bearer {self.status['api_key']}"}
        request = urllib.request.Request(f"{self.status['web_url']}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("up"))
    try:
        up.start()
        yield up
    finally:
        up.stop()


def test_an_order_for_the_sample_product_is_confirmed(up: Up) -> None:
    order = up.order("X")

    assert up.outcome(order) == "confirmed"


def test_the_printed_lines_hold_the_key_and_the_address(up: Up) -> None:
    post, get = [line for line in up.output.splitlines() if line.startswith("curl ")]

    assert all(up.status["api_key"] in line and up.status["web_url"] in line for line in (post, get))


def test_addresses_and_passwords_are_for_their_owner_only(up: Up) -> None:
    assert stat.S_IMODE((up.data_dir / "up.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((up.data_dir / "secrets.json").stat().st_mode) == 0o600


def test_the_web_stands_back_for_those_who_bring_orders_to_their_end(up: Up) -> None:
    pids = up.status["pids"]

    niceness = {part: {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids[part]} for part in pids}

    assert niceness["web"] == {WEB_NICENESS}
    assert niceness["redis"] | niceness["postgres"] | niceness["worker"] == {0}


def test_the_operators_commands_find_the_running_system(up: Up) -> None:
    made = up.manage("create_api_key", "another", "--scope", "orders")

    assert made.returncode == 0, made.stderr
    assert len(made.stdout.split()) == 1


def test_a_second_copy_with_the_same_data_is_refused(up: Up) -> None:
    second = up.manage("up")

    assert second.returncode != 0
    assert "already runs a system" in second.stderr
    assert up.status["pids"]["supervisor"]


def test_what_stands_still_is_replaced_and_orders_go_on(up: Up) -> None:
    before = up.status["pids"]
    still = [before[part][0] for part in ("worker", "scheduler", "flower")] + [before["web"][1]]

    for pid in still:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: not any(map(is_running, still)), timeout_s=4 * SILENT_S, what="their end")
    wait_until(
        lambda: up.output.count("showed no sign of life") == up.output.count("is up again") == 3,
        what="others in the place of those that `up` looks at itself",
    )

    assert up.status["pids"]["web"][0] == before["web"][0]
    assert up.outcome(up.accepted("MUG-001")) == "confirmed"
    wait_until(lambda: len(up.counted("silent")) == len(still), what="what Prometheus is told")


@pytest.mark.parametrize("part", ["redis", "postgres", "web", "worker"])
def test_orders_go_on_after_a_part_was_killed(up: Up, part: str) -> None:
    killed = up.status["pids"][part][0]

    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: up.status["pids"][part][0] != killed, timeout_s=90, what=f"another {part}")

    assert up.outcome(up.order("MUG-001")) == "confirmed"
    wait_until(lambda: part in {*up.counted("ended"), "redis", "postgres"}, what="what Prometheus is told")


def test_after_a_stop_nothing_runs_and_after_a_start_the_data_is_there(up: Up) -> None:
    order = up.order("MUG-002")
    assert up.outcome(order) == "confirmed"
    key = up.status["api_key"]

    exit_code = up.stop()

    assert exit_code == 0
    assert not marked_with(MARK, str(up.data_dir))
    assert not working_in(up.data_dir / "redis")
    assert not working_in(up.data_dir / "postgres" / "cluster")
    assert not (up.data_dir / "up.json").exists()

    up.start()

    assert up.status["api_key"] == key
    assert up.outcome(order) == "confirmed"


def test_a_taken_port_is_reported_with_the_variable_that_moves_it(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "stranger") as stranger:
        refused = Up(tmp_path / "data", FLOWER_PORT=str(stranger.port)).manage("up")

    assert refused.returncode != 0
    assert "FLOWER_PORT" in refused.stderr
    assert "in use" in refused.stderr


def test_addresses_that_the_user_sets_are_used_and_no_server_is_started(tmp_path: Path) -> None:
    nobody_is_there = free_port()
    urls = {
        "DATABASE_URL": f"postgresql://reserva:secret@127.0.0.1:{nobody_is_there}/reserva",
        "REDIS_URL": f"redis://127.0.0.1:{nobody_is_there}/0",
    }

    failed = Up(tmp_path, **urls).manage("up")

    assert failed.returncode != 0
    assert str(nobody_is_there) in failed.stderr
    assert not (tmp_path / "redis").exists()
    assert not (tmp_path / "postgres").exists()
