"""The system under faults: `manage.py up` against servers that are ours, with a fault proxy before each of them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psycopg
import redis

from tests.benchmarks.reserva import Reserva
from tests.chaos.losses import Loss
from tests.chaos.proxy import FaultProxy
from workers.embedded import PostgresServer, RedisServer, Server
from workers.ports import LOOPBACK
from workers.proc import children_by_parent, is_running
from workers.processes import Part, PartFailedError

#: By which words of its command line a part's main process is known.
_WORDS: Final = {"web": b"shop.web", "worker": b"\0worker\0", "scheduler": b"\0beat\0"}
#: How long our own questions to a store may take; it may be frozen.
PATIENCE_S: Final = 2


class Ledger(PostgresServer):
    """A PostgreSQL that also knows when each transaction was committed."""

    @property
    def part(self) -> Part:
        """What a supervisor needs to run it."""
        part = super().part
        return replace(part, argv=[*part.argv, "-c", "track_commit_timestamp=on"])


class Site(Reserva):
    """The running system. `redis` and `database` pass the proxies by.

    `fail_points`: the folder that arms them. `raised_skus`: whose counters somebody has edited upward. `late_skus`: put on
    sale while it ran. `losses`: what faults may have cost by their nature.
    """

    def __init__(self, folder: Path, *, seed: int = 0, append_fsync: str = "always", **env: str) -> None:
        super().__init__(folder, WEB_WORKERS="2", WORKERS="2", **env)
        folder.mkdir(parents=True, exist_ok=True)
        self.fail_points = folder / "fail-points"
        self.fail_points.mkdir()
        self.redis_server = RedisServer(folder / "redis", append_fsync=append_fsync)
        self.postgres_server = Ledger(folder / "postgres")
        self.redis_proxy = FaultProxy((LOOPBACK, self.redis_server.port), seed=seed)
        self.postgres_proxy = FaultProxy((LOOPBACK, self.postgres_server.port), seed=seed + 1)
        redis_url = _moved(self.redis_server.url, self.redis_server.port, self.redis_proxy.port)
        database_url = _moved(self.postgres_server.url, self.postgres_server.port, self.postgres_proxy.port)
        self.env |= {
            "REDIS_URL": redis_url,
            "CELERY_BROKER_URL": redis_url,
            "DATABASE_URL": database_url,
            "FAIL_POINTS": str(self.fail_points),
        }
        self.raised_skus: set[str] = set()
        self.late_skus: set[str] = set()
        self.losses: list[Loss] = []
        self.append_fsync = append_fsync
        self._stores = ExitStack()

    def start(self) -> None:
        """Start the stores, the proxies and the system, and wait until it takes orders. Raises PartFailedError."""
        for part in (self.redis_server, self.postgres_server, self.redis_proxy, self.postgres_proxy):
            self._stores.enter_context(part)
        super().start()
        self.database.close()
        self.redis.close()
        self.redis = redis.Redis.from_url(
            self.redis_server.url, decode_responses=True, socket_timeout=PATIENCE_S, socket_connect_timeout=1
        )
        self.database = self.connect()

    def stop(self) -> None:
        """Stop all of it."""
        for proxy in (self.redis_proxy, self.postgres_proxy):
            if proxy.is_open:
                proxy.heal()
        super().stop()
        self._stores.close()

    def connect(self, **options: Any) -> psycopg.Connection:
        """A connection to PostgreSQL that passes the proxy by. Raises psycopg.OperationalError."""
        return psycopg.connect(
            self.postgres_server.url, autocommit=True, connect_timeout=PATIENCE_S, **options
        )

    @contextmanager
    def books(self) -> Iterator[psycopg.Connection]:
        """A connection to PostgreSQL for a moment. Raises psycopg.OperationalError."""
        with self.connect(options="-c statement_timeout=2000") as connection:
            yield connection

    def main_pids(self, part: str) -> list[int]:
        """The main processes of `web`, `worker` or `scheduler` that run now."""
        if self._child is None:
            return []
        found = children_by_parent().get(self._child.pid, [])
        return [pid for pid in found if _WORDS[part] in _command_line(pid)]

    def revive(self, server: Server) -> None:
        """Start a store again whose process has ended, and wait until it answers. Raises PartFailedError."""
        if not is_running(server.pid):
            server.stop()
            server.start()

    def reload(self, skus: Sequence[str]) -> None:
        """Publish what PostgreSQL has of SKUs, as the operator does. Raises OSError where a store is unavailable.

        Differences that are left, of other SKUs, are no error here.
        """
        try:
            self.manage("reconcile", "--reload", *skus)
        except PartFailedError as failed:
            if "SKUs compared" not in str(failed):
                raise OSError(f"nothing was loaded: {failed}") from failed

    @property
    def web_log(self) -> str:
        """What the web tier has told."""
        logs = sorted((self.folder / "data" / "logs").glob("web.log*"))
        return "".join(log.read_text(errors="replace") for log in logs)

    @property
    def up_log(self) -> str:
        """What the supervisor has told."""
        return (self.folder / "up.log").read_text(errors="replace")


def _moved(url: str, port: int, other_port: int) -> str:
    """The URL with another port."""
    return url.replace(f"@{LOOPBACK}:{port}/", f"@{LOOPBACK}:{other_port}/")


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
