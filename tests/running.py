"""The system's own processes, run for tests: web, worker and scheduler against the tests' servers."""

import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.preloaded import preloaded
from workers.ports import free_port
from workers.processes import Child, Part


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An HTTP answer. `body`: decoded JSON where it is JSON, else text."""

    status: int
    headers: Mapping[str, str]
    body: Any


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Processes that neither work nor hang up."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def manage(*arguments: str, folder: Path, env: Mapping[str, str]) -> int:
    """Run a command of `manage.py`, which writes its log into the folder; the exit status as a shell has it."""
    name = f"manage-{uuid.uuid4().hex[:6]}"
    argv = [sys.executable, "-m", "manage", *arguments]
    command = Child(Part(name=name, argv=argv, log=folder / f"{name}.log", env=env), run=preloaded().run)
    return command.exit_status


class System:
    """Web, worker and scheduler; each can be left out, stopped, killed and started again."""

    def __init__(
        self, folder: Path, env: Mapping[str, str] | None = None, web_module: str = "shop.web"
    ) -> None:
        self.folder = folder
        self.env = dict(env or {})
        self.web_module = web_module
        self.worker_app = "workers.app"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api_key = ""
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Self:
        from django.db import connection

        from shop.clients import create_key

        connection.close()  # the test before may have ended its server's connections
        self.api_key = create_key(f"tests-{uuid.uuid4().hex[:8]}", ["orders", "stock"])
        return self

    def __exit__(self, *_: object) -> None:
        # At once: to stop well takes Celery seconds, and is what tests do that are about it.
        for name in list(self._children):
            self.kill(name)

    def start(self, *names: str, **env: str) -> Self:
        """Start these of `web`, `worker`, `scheduler` (all without names) and wait until they are ready."""
        started = []
        for name in names or ("web", "worker", "scheduler"):
            argv, is_ready = getattr(self, f"_{name}")()
            log = self.folder / f"{name}-{uuid.uuid4().hex[:6]}.log"
            part = Part(
                name=name,
                argv=[sys.executable, "-m", *argv],
                log=log,
                env={**self.env, **env, "PYTHONPATH": os.getcwd(), "TMPDIR": str(self.folder)},
                is_ready=is_ready,
                grace_s=15,
            )
            self._children[name] = Child(part, run=preloaded().run)
            started.append(self._children[name])
        for child in started:
            child.wait_ready()
        return self

    def replace(self, name: str, **env: str) -> bool:
        """Start another process of a part beside it, then stop the old one; whether that stopped by itself."""
        old = self._children[name]
        self.start(name, **env)
        return old.stop()

    def _web(self) -> tuple[list[str], Any]:
        argv = [*self.web_module.split(), "--port", str(self.port)]
        if not Path("shop/web/__main__.py").exists():  # the release before had another server
            argv = ["granian", "shop.web.asgi:application", "--interface=asgi", "--http=1", *argv[1:]]
        # Several may share the port, so that an answer alone does not tell that this one is up.
        return (
            argv,
            lambda: (
                re.search("takes requests|Started worker-1|startup complete", self.log("web"))
                and self._answers("/healthz")
            ),
        )

    def _worker(self) -> tuple[list[str], Any]:
        from shop.stores import redis_client

        name = f"worker-{uuid.uuid4().hex[:6]}@tests"
        argv = ["celery", "-A", self.worker_app, "worker", "-n", name, "--concurrency", "4", "-l", "WARNING"]
        argv += ["--without-gossip", "--without-mingle"]  # as everywhere else
        return argv, lambda: redis_client().exists(f"heartbeat:worker:{name}")

    def _scheduler(self) -> tuple[list[str], Any]:
        schedule = str(self.folder / f"schedule-{uuid.uuid4().hex[:6]}")
        return [
            "celery",
            "-A",
            "workers.app",
            "beat",
            "--pidfile=",
            "--schedule",
            schedule,
            "-l",
            "WARNING",
        ], lambda: True

    def _answers(self, path: str) -> bool:
        try:
            return self.get(path).status == 200
        except OSError:
            return False

    def pids(self, name: str) -> list[int]:
        """The part's processes, its main one first."""
        return self._children[name].pids

    def tell(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a part's main process."""
        os.kill(self._children[name].pid, number)

    def is_up(self, name: str) -> bool:
        """Whether the part's main process runs."""
        return self._children[name].is_alive()

    def stop(self, name: str) -> bool:
        """Stop a part; whether it ended by itself, without force."""
        return self._children.pop(name).stop()

    def kill(self, name: str) -> None:
        """End a part with SIGKILL, its children too."""
        self._children.pop(name).kill()

    def log(self, name: str) -> str:
        """What the part has written."""
        return self._children[name].part.log.read_text()

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 40,
    ) -> Answer:
        """One request; `body` goes as JSON unless it is bytes. A connection that breaks raises OSError."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {self.api_key if api_key is None else api_key}", **(headers or {})}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.url + path, data=raw, headers=sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                return _answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error.code, error.headers, error.read())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """GET."""
        return self.send("GET", path, headers=headers)

    def place(self, *lines: tuple[str, int], key: str | None = None, **more: Any) -> Answer:
        """Place an order."""
        body = {"items": [{"sku": sku, "quantity": quantity} for sku, quantity in lines], **more}
        return self.send("POST", "/api/v1/orders", body, {"Idempotency-Key": key or uuid.uuid4().hex})

    def end_of(self, order_id: str, timeout_s: float = 60) -> Answer:
        """The order's final state, waited for."""
        from tests.builders import wait_until

        answers: list[Answer] = []

        def ended() -> bool:
            answers.append(self.get(f"/api/v1/orders/{order_id}", {"Prefer": "wait=5"}))
            return answers[-1].status == 200 and answers[-1].body["status"] != "queued"

        wait_until(ended, timeout_s=timeout_s, what=f"the end of order {order_id}")
        return answers[-1]


def _answer(status: int, headers: Any, raw: bytes) -> Answer:
    is_json = "json" in headers.get("Content-Type", "")
    return Answer(status=status, headers=headers, body=json.loads(raw) if is_json and raw else raw.decode())
