"""The two baselines: what they run, and what must hold in their stores after a round."""

import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import redis
from psycopg import sql

from tests.benchmarks import wire
from tests.benchmarks.meter import Pids
from tests.benchmarks.systems import Line, System, ask, unless
from workers.embedded import PostgresServer, RedisServer
from workers.ports import LOOPBACK, free_port
from workers.proc import descendants
from workers.processes import Child, Part, run_to_end

PACKAGE: Final = "tests.benchmarks.textbook"
ROOT: Final = Path(__file__).parents[2]
#: As in its settings.
RESULTS, KEYS, LOCKS = 1, 2, 3

#: Of 1, 2, 4 and 8 threads in each of the two processes none is faster than the others by more than chance; two cost the
#: least CPU by a little.
BLOCKING_THREADS: Final = 2

SOLD = """
SELECT l.product_id, sum(l.quantity) FROM textbook_orderline AS l JOIN textbook_order AS o ON o.id = l.order_id
WHERE o.id = ANY(%s::uuid[]) AND o.status = 'confirmed' GROUP BY l.product_id
"""


class CeleryNoop(System):
    """View, queue, prefork worker with four processes, result backend; the task does nothing.

    Redis syncs its log once a second, which is its default and faster than what this system is measured with.
    """

    order_task = "do_nothing"

    def __init__(self, folder: Path, name: str = "celery-noop") -> None:
        self.name = name
        self.folder = folder
        self.port = free_port()
        self.address = (LOOPBACK, self.port)
        self._running = ExitStack()
        self._children: dict[str, Child] = {}

    def start(self) -> None:
        """Start it and wait until it takes orders. Raises PartFailedError."""
        server = RedisServer(self.folder / "redis", append_fsync="everysec")
        self._running.enter_context(server)
        self._redis_pid = server.pid
        url = server.url.removesuffix("/0")
        self.results, self.keys, self.locks = (
            self._running.enter_context(redis.Redis.from_url(f"{url}/{number}"))
            for number in (RESULTS, KEYS, LOCKS)
        )
        scratch = self.folder / "tmp"
        scratch.mkdir()
        self.env = {
            "DJANGO_SETTINGS_MODULE": f"{PACKAGE}.settings",
            "ORDER_TASK": self.order_task,
            "REDIS_URL": url,
            # Celery lets the shell's variables of these names win over its settings.
            "CELERY_BROKER_URL": f"{url}/0",
            "CELERY_RESULT_BACKEND": f"{url}/{RESULTS}",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(scratch),
        }
        self.start_stores()
        web = ["granian", f"{PACKAGE}.wsgi:application", "--interface", "wsgi", "--workers", "2"]
        web += ["--blocking-threads", str(BLOCKING_THREADS), "--host", LOOPBACK, "--port", str(self.port)]
        worker = ["celery", "-A", f"{PACKAGE}.tasks", "worker", "--pool", "prefork", "--concurrency", "4"]
        worker += ["-n", "worker@%h", "--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
        self._start_part("web", web)
        self._start_part("worker", worker)
        self._children["web"].wait_ready()

    def start_stores(self) -> None:
        """Start what the task needs."""

    def _start_part(self, name: str, arguments: Sequence[str]) -> None:
        part = Part(
            name=name,
            argv=[sys.executable, "-m", *arguments],
            log=self.folder / f"{name}.log",
            env=self.env,
            cwd=ROOT,
            is_ready=self._answers,
        )
        self._children[name] = Child(part)
        self._running.callback(self._children[name].stop)

    def _answers(self) -> bool:
        try:
            return wire.status(ask(self.address, self.get(str(uuid.UUID(int=0)), wait_s=0))) == 200
        except OSError:
            return False

    def stop(self) -> None:
        """Stop all of it."""
        self._running.close()

    def pids(self) -> Pids:
        """Its processes by component."""
        return {"redis": [self._redis_pid], **{name: child.pids for name, child in self._children.items()}}

    def put_on_sale(self, stock: Mapping[str, int]) -> None:
        """Nothing is sold here."""

    def post(self, key: str, lines: Sequence[Line]) -> bytes:
        """The request that places an order under an idempotency key."""
        document = {"items": [{"sku": sku, "quantity": quantity} for sku, quantity in lines]}
        return wire.request("POST", "/orders", self.address, {"Idempotency-Key": key}, document)

    def get(self, order_id: str, *, wait_s: int) -> bytes:
        """The request that asks for an order; it answers at once."""
        return wire.request("GET", f"/orders/{order_id}", self.address, {})

    def waiting(self) -> int:
        """Keys claimed without a result: the queue alone does not tell, a message may be in nobody's books."""
        return int(self.keys.dbsize()) - int(self.results.dbsize())

    def snapshot(self, skus: Sequence[str]) -> object:
        """There is nothing to compare with."""
        return None

    def faults(self, before: object, accepted: Sequence[str]) -> list[str]:
        """Orders without a result."""
        ids = set(accepted)
        found = self.results.mget([f"celery-task-meta-{order_id}" for order_id in ids]) if ids else []
        done = sum(b'"SUCCESS"' in result for result in found if result)
        return [
            *unless(len(ids) == len(accepted), f"{len(accepted) - len(ids)} orders accepted under one id"),
            *unless(done == len(ids), f"{len(ids) - done} accepted orders without a result"),
        ]


@dataclass(frozen=True, kw_only=True)
class Books:
    """Orders stored, and the units left of each SKU."""

    orders: int
    left: Mapping[str, int]


class Textbook(CeleryNoop):
    """The same, with a task that fulfils the order: a lock per SKU, `select_for_update`, rows by the ORM.

    `keeps_connections`: to PostgreSQL, from task to task. Celery's Django support opens one for each task, and keeps it
    only where somebody knows of a setting that is not in its documentation.
    """

    order_task = "fulfil_order"

    def __init__(self, folder: Path, name: str = "textbook", *, keeps_connections: bool = False) -> None:
        super().__init__(folder, name)
        self._keeps_connections = keeps_connections

    def start_stores(self) -> None:
        """PostgreSQL with the shop's tables."""
        self._postgres = PostgresServer(self.folder / "postgres")
        self._running.enter_context(self._postgres)
        self.env |= {"DATABASE_URL": self._postgres.url, "KEEP_CONNECTIONS": str(self._keeps_connections)}
        run_to_end([sys.executable, "-m", "django", "migrate", "--run-syncdb"], env=self.env, cwd=ROOT)
        self.database = self._running.enter_context(psycopg.connect(self._postgres.url, autocommit=True))
        self._make_logins_cheap()

    def _make_logins_cheap(self) -> None:
        """Celery's Django support opens a connection for each task; 4,096 rounds of hashing for each would be unfair."""
        self.database.execute("SET scram_iterations = 1")
        password = sql.Literal(self._postgres.password)
        self.database.execute(sql.SQL("ALTER ROLE CURRENT_USER PASSWORD {}").format(password))

    def pids(self) -> Pids:
        """Its processes by component."""
        postgres = [self._postgres.pid, *descendants(self._postgres.pid)]
        return {**super().pids(), "postgres": postgres}

    def put_on_sale(self, stock: Mapping[str, int]) -> None:
        """Straight into the table."""
        rows = [list(stock), list(stock.values())]
        self.database.execute(
            "INSERT INTO textbook_product (sku, stock) SELECT * FROM unnest(%s::text[], %s::int[])", rows
        )

    def snapshot(self, skus: Sequence[str]) -> Books:
        """What the books say of these SKUs."""
        (orders,) = self.database.execute("SELECT count(*) FROM textbook_order").fetchone() or (0,)
        rows = self.database.execute(
            "SELECT sku, stock FROM textbook_product WHERE sku = ANY(%s)", [list(skus)]
        )
        return Books(orders=orders, left=dict(rows.fetchall()))

    def faults(self, before: object, accepted: Sequence[str]) -> list[str]:
        """Lost or doubled orders, units that do not add up, locks left behind."""
        assert isinstance(before, Books)
        ids = list(set(accepted))
        after = self.snapshot(list(before.left))
        sold: dict[str, int] = dict(self.database.execute(SOLD, [ids]).fetchall())
        stored = "SELECT count(*) FROM textbook_order WHERE id = ANY(%s::uuid[])"
        (found,) = self.database.execute(stored, [ids]).fetchone() or (0,)
        return [
            *super().faults(before, accepted),
            *unless(found == len(ids), f"{len(ids) - found} accepted orders lost"),
            *unless(after.orders - before.orders == found, "orders in the books that nobody placed"),
            *unless(not self.locks.dbsize(), "locks left behind"),
            *(
                f"{sku}: {sold.get(sku, 0)} units in confirmed orders, {before.left[sku] - left} taken"
                for sku, left in after.left.items()
                if before.left[sku] - left != sold.get(sku, 0)
            ),
        ]
