"""The system that `up` runs on one machine: its parts, their addresses, their secrets."""

import http.client
import json
import os
import secrets
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from django.conf import settings
from django.core.management import CommandError

from workers.embedded import PostgresServer, RedisServer
from workers.ports import LOOPBACK, port_problem
from workers.private_files import write_private
from workers.processes import Part, PartFailedError
from workers.supervisor import Pids, Supervisor

STAFF_USER: Final = "operator"
READY_WITHIN_S: Final = 60.0
#: Processes of a worker's pool: one for the batches of orders, the others for housekeeping and for orders that go alone.
WORKER_CONCURRENCY: Final = "3"

WEB_MODULE: Final = "shop.web"
#: What was accepted is brought to its end before more is accepted: else orders pile up, and processors have nothing to do
#: but one thing after the other when the crowd has gone. 10 leaves it a tenth of what each of the others may have.
WEB_NICENESS: Final = 10


class System:
    """Starts the parts in the right order, and tells people and scripts where they are."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._web_port = _port("WEB_PORT", 8000)
        self._flower_port = _port("FLOWER_PORT", 5555)
        self._web_workers = _count("WEB_WORKERS", 1)
        self._workers = _count("WORKERS", 1)
        self._has_flower = _flag("FLOWER")
        self._env: dict[str, str] = {}
        self._secrets: dict[str, str] = {}
        self._sample: dict[str, str] = {}
        self._missing = ""

    def start(self, supervisor: Supervisor) -> None:
        """Bring up everything. Raises CommandError, PartFailedError, ServerBinariesMissingError."""
        self.remove_status()
        ports = {"WEB_PORT": self._web_port} | (
            {"FLOWER_PORT": self._flower_port} if self._has_flower else {}
        )
        _insist_on_free(**ports)
        self._secrets = _stored_secrets(self.data_dir / "secrets.json")
        self._env = self._environment(*self._start_stores(supervisor))
        self._prepare(supervisor)
        supervisor.start(*self._parts())
        try:
            supervisor.wait_until(self._is_ready, what="ready to take orders", within_s=READY_WITHIN_S)
        except PartFailedError as error:
            raise PartFailedError(f"{error}: {self._missing}. Logs: {self.data_dir / 'logs'}") from error
        self.write_status(supervisor.pids)

    def _start_stores(self, supervisor: Supervisor) -> tuple[str, str]:
        """The addresses of Redis and PostgreSQL: the user's, or those of servers that are started here."""
        redis_url, database_url = os.environ.get("REDIS_URL"), os.environ.get("DATABASE_URL")
        embedded = []
        if not redis_url:
            redis = RedisServer(self.data_dir / "redis", append_fsync=_append_fsync())
            redis_url = redis.url
            embedded.append(redis.part)
        if not database_url:
            postgres = PostgresServer(self.data_dir / "postgres")
            database_url = postgres.url
            embedded.append(postgres.part)
        supervisor.start(*(replace(part, log=self._log(part.name)) for part in embedded))
        return redis_url, database_url

    def _environment(self, redis_url: str, database_url: str) -> dict[str, str]:
        """What all our processes are told. What the user has set wins."""
        ours = {
            "DATA_DIR": str(self.data_dir),
            "WEB_PORT": str(self._web_port),
            "FLOWER_PORT": str(self._flower_port),
            "FLOWER_URL": self._flower_url if self._has_flower else "",
            "REDIS_URL": redis_url,
            "DATABASE_URL": database_url,
            "CELERY_BROKER_URL": redis_url,
            "SECRET_KEY": self._secrets["secret_key"],
            "ORDER_ID_SECRET": self._secrets["order_id_secret"],
            "PYTHONUNBUFFERED": "1",
        }
        told = {name: os.environ.get(name) or value for name, value in ours.items()}
        return told | {"TMPDIR": str(self._fresh_scratch_folder())}

    def _fresh_scratch_folder(self) -> Path:
        """Where our processes put what they forget when they are killed (Celery's pool does): nowhere else."""
        folder = self.data_dir / "tmp"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        return folder

    def _prepare(self, supervisor: Supervisor) -> None:
        env = {
            **self._env,
            "DEMO_API_KEY": self._secrets.get("api_key", ""),
            "STAFF_PASSWORD": self._secrets["staff_password"],
        }
        command = [sys.executable, "manage.py", "prepare", "--staff-user", STAFF_USER]
        self._sample = json.loads(supervisor.run(command, env=env, cwd=settings.BASE_DIR))
        self._secrets["api_key"] = self._sample["api_key"]
        write_private(self.data_dir / "secrets.json", json.dumps(self._secrets))

    def _parts(self) -> list[Part]:
        """What we run beside the databases. They stop in the opposite order: the web first."""
        celery = ["-m", "celery", "-A", "workers.app"]
        scheduler = [*celery, "beat", "--schedule", str(self.data_dir / "celerybeat-schedule"), "--pidfile="]
        web = ["-m", WEB_MODULE, "--workers", str(self._web_workers)]
        web += ["--host", LOOPBACK, "--port", str(self._web_port)]
        return [
            *([self._flower(celery)] if self._has_flower else []),
            *(self._worker(celery, number) for number in range(1, self._workers + 1)),
            self._python("scheduler", scheduler, grace_s=5),
            replace(
                self._python("web", web, grace_s=12),
                is_ready=lambda: self._get("/healthz")[0] == 200,
                niceness=WEB_NICENESS,
            ),
        ]

    def _flower(self, celery: list[str]) -> Part:
        flower = [*celery, "flower", f"--address={LOOPBACK}", f"--port={self._flower_port}"]
        login = {"FLOWER_BASIC_AUTH": self._flower_login}
        return replace(self._python("flower", flower, grace_s=5), env=self._env | login)

    def _worker(self, celery: list[str], number: int) -> Part:
        """The first is called `worker`, the others are numbered."""
        name = "worker" if number == 1 else f"worker{number}"
        # Orders first: that is the queue the worker waits at.
        worker = [*celery, "worker", "-n", f"{name}@%h", "-Q", "orders,maintenance", "-E"]
        worker += ["--concurrency", WORKER_CONCURRENCY]
        # Workers need not know each other here, and hold no election while Redis is away.
        worker += ["--without-gossip", "--without-mingle"]
        return self._python(name, worker, grace_s=20)

    def _python(self, name: str, arguments: list[str], *, grace_s: float) -> Part:
        argv = [sys.executable, *arguments]
        log = self._log(name)
        return Part(
            name=name,
            argv=argv,
            env=self._env,
            cwd=settings.BASE_DIR,
            log=log,
            grace_s=grace_s,
            shows_life=True,
        )

    def _log(self, name: str) -> Path:
        return self.data_dir / "logs" / f"{name}.log"

    def _is_ready(self) -> bool:
        status, self._missing = self._get("/readyz")
        return status == 200 and (not self._has_flower or _accepts_connections(self._flower_port))

    def _get(self, path: str) -> tuple[int, str]:
        """Status and body, 0 where nobody answers."""
        connection = http.client.HTTPConnection(LOOPBACK, self._web_port, timeout=3)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()

    @property
    def _web_url(self) -> str:
        return f"http://{LOOPBACK}:{self._web_port}"

    @property
    def _flower_url(self) -> str:
        return f"http://{LOOPBACK}:{self._flower_port}"

    @property
    def _flower_login(self) -> str:
        return os.environ.get("FLOWER_BASIC_AUTH") or f"{STAFF_USER}:{self._secrets['flower_password']}"

    def write_status(self, pids: Pids) -> None:
        """Keep `up.json` true, for scripts and for `manage.py`."""
        flower_user, _, flower_password = self._flower_login.partition(":")
        none: Pids = {"redis": [], "postgres": [], "flower": []}
        workers = [pid for name, of_part in pids.items() if name.startswith("worker") for pid in of_part]
        others = {name: of_part for name, of_part in pids.items() if not name.startswith("worker")}
        status = {
            "web_url": self._web_url,
            "flower_url": self._flower_url,
            "flower_user": flower_user,
            "flower_password": flower_password,
            "api_key": self._secrets["api_key"],
            "staff_user": STAFF_USER,
            "staff_password": self._secrets["staff_password"],
            "redis_url": self._env["REDIS_URL"],
            "broker_url": self._env["CELERY_BROKER_URL"],
            "database_url": self._env["DATABASE_URL"],
            "pids": {**none, **others, "worker": workers},
        }
        write_private(self.data_dir / "up.json", json.dumps(status, indent=2))

    def remove_status(self) -> None:
        """Nothing runs, or not for long."""
        (self.data_dir / "up.json").unlink(missing_ok=True)

    def welcome(self) -> str:
        """Where everything is, and two commands that work when pasted into a shell."""
        orders = f"{self._web_url}/api/v1/orders"
        authorization = f"-H 'Authorization: Bearer {self._secrets['api_key']}'"
        login = self._flower_login.replace(":", " / ", 1)
        flower = f"  Flower    {self._flower_url}/  ({login})\n" if self._has_flower else ""
        body = '{"items": [{"sku": "X", "quantity": 1}]}'
        return f"""
  Shop      {self._web_url}/
  API       {self._web_url}/api/docs
  Admin     {self._web_url}/admin/
{flower}  Staff     {STAFF_USER} / {self._secrets["staff_password"]}
  API key   {self._secrets["api_key"]}
  Data      {self.data_dir}  (addresses and passwords for scripts: up.json; logs: logs/)

Place an order, and see what became of it:

curl -sS {orders} {authorization} -H 'Content-Type: application/json' \
-H 'Idempotency-Key: {self._sample["sample_key"]}' -d '{body}'
curl -sS {orders}/{self._sample["sample_order"]} {authorization} -H 'Prefer: wait=10'

Ctrl-C stops everything and keeps the data."""


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        raise CommandError(f"{variable} is {text!r}, but a port is a number from 1 to 65535")
    return int(text)


def _count(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 64):
        raise CommandError(f"{variable} is {text!r}, but must be a number from 1 to 64")
    return int(text)


def _flag(variable: str) -> bool:
    text = os.environ.get(variable) or "true"
    if text not in {"true", "false"}:
        raise CommandError(f"{variable} is {text!r}, but must be true or false")
    return text == "true"


def _append_fsync() -> str:
    text = os.environ.get("REDIS_APPENDFSYNC") or "always"
    if text not in {"always", "everysec"}:
        raise CommandError(f"REDIS_APPENDFSYNC is {text!r}, but must be always or everysec")
    return text


def _insist_on_free(**ports: int) -> None:
    for variable, port in ports.items():
        if problem := port_problem(port):
            raise CommandError(
                f"cannot listen on port {port}: {problem}. Choose another with {variable},"
                f" for example `make up {variable}={port + 1}`."
            )


def _stored_secrets(path: Path) -> dict[str, str]:
    """The secrets of this system; on the first start, new ones."""
    stored: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    for name in ("secret_key", "order_id_secret", "flower_password", "staff_password"):
        stored.setdefault(name, secrets.token_urlsafe(32 if name.endswith(("key", "secret")) else 12))
    write_private(path, json.dumps(stored))
    return stored


def _accepts_connections(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
