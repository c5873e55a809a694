"""This system, started as its users start it, and what must hold in its stores after a round."""

import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import redis

from shop import compaction, keys
from tests.benchmarks import wire
from tests.benchmarks.meter import Pids
from tests.benchmarks.systems import Line, System, ask, unless, wait_until
from workers.ports import free_port
from workers.processes import Child, Part, PartFailedError, run_to_end

ROOT: Final = Path(__file__).parents[2]
#: Orders that are read over HTTP after a round, to see that they are readable and say what the books say.
READ_AGAIN: Final = 20
#: Longer than a worker takes to find that nobody asks for anything, and Redis to rewrite the largest file that it may have.
REST_S: Final = 30.0

#: What the shell may hold of these would lead away from the servers started here.
SERVERS: Final = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL")

SOLD = """
SELECT l.sku, sum(l.quantity)::bigint FROM shop_orderline AS l JOIN shop_order AS o ON o.id = l.order_id
WHERE o.id = ANY(%s::uuid[]) AND o.status = 'confirmed' GROUP BY l.sku
"""


@dataclass(frozen=True, kw_only=True)
class Books:
    """Orders stored, and of each SKU the units put on sale and confirmed."""

    orders: int
    products: Mapping[str, tuple[int, int]]


class Reserva(System):
    """`manage.py up` in a folder of its own, on free ports.

    `root`: the tree that it runs; `env`: what its users could set.
    """

    COMMAND: tuple[str, ...] = ("manage.py", "up")

    def __init__(self, folder: Path, name: str = "reserva", *, root: Path = ROOT, **env: str) -> None:
        self.name = name
        self.folder = folder
        self.root = root
        self.env = {
            **dict.fromkeys(SERVERS, ""),
            "DATA_DIR": str(folder / "data"),
            "WEB_PORT": str(free_port()),
            "FLOWER_PORT": str(free_port()),
            "FLOWER": "false",
            "REDIS_APPENDFSYNC": "always",
            "LOG_LEVEL": "WARNING",
            **env,
        }
        self._child: Child | None = None

    def start(self) -> None:
        """Start it and wait until it takes orders. Raises PartFailedError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        up_json = self.folder / "data" / "up.json"
        part = Part(
            name="up",
            argv=[sys.executable, *self.COMMAND],
            log=self.folder / "up.log",
            env=self.env,
            cwd=self.root,
            is_ready=up_json.exists,
            ready_within_s=120,
            grace_s=60,
        )
        self._child = Child(part)
        self._child.wait_ready()
        status = self.status()
        url = urlsplit(status["web_url"])
        self.address = (str(url.hostname), url.port or 80)
        self._headers = {"Authorization": f"Bearer {status['api_key']}"}
        self.redis: redis.Redis = redis.Redis.from_url(status["redis_url"], decode_responses=True)
        self.database = psycopg.connect(status["database_url"], autocommit=True)

    def stop(self) -> None:
        """Stop all of it."""
        if hasattr(self, "database"):
            self.database.close()
            self.redis.close()
        if self._child:
            self._child.stop()
            self._child = None

    def status(self) -> dict[str, Any]:
        """Where its parts are, as it tells scripts."""
        found: dict[str, Any] = json.loads((self.folder / "data" / "up.json").read_text())
        return found

    def pids(self) -> Pids:
        """Its processes by component."""
        pids: Pids = self.status()["pids"]
        return pids

    def versions(self) -> dict[str, str]:
        """Of the servers that it runs on."""
        (postgres,) = self.database.execute("SHOW server_version").fetchone() or ("",)
        redis_server: str = self.redis.info("server")["redis_version"]
        return {"redis-server": redis_server, "postgres": str(postgres)}

    def manage(self, *arguments: str) -> str:
        """What a command of the operator prints. Raises PartFailedError."""
        status = self.status()
        servers = {name: status[name.lower().removeprefix("celery_")] for name in SERVERS}
        return run_to_end([sys.executable, "manage.py", *arguments], env=self.env | servers, cwd=self.root)

    def put_on_sale(self, stock: Mapping[str, int]) -> None:
        """As an operator does, from a catalogue file."""
        catalogue = self.folder / "catalogue.csv"
        with catalogue.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["sku", "name", "price", "stock"])
            rows.writerows([sku, f"Product {sku}", "2.50", units] for sku, units in stock.items())
        self.manage("load_catalogue", str(catalogue))

    def post(self, key: str, lines: Sequence[Line]) -> bytes:
        """The request that places an order under an idempotency key."""
        document = {"items": [{"sku": sku, "quantity": quantity} for sku, quantity in lines]}
        headers = self._headers | {"Idempotency-Key": key}
        return wire.request("POST", "/api/v1/orders", self.address, headers, document)

    def get(self, order_id: str, *, wait_s: int) -> bytes:
        """The request that asks for an order, held until it ends."""
        headers = self._headers | ({"Prefer": f"wait={wait_s}"} if wait_s else {})
        return wire.request("GET", f"/api/v1/orders/{order_id}", self.address, headers)

    def waiting(self) -> int:
        """How many orders are in the journal of those without an end."""
        return int(self.redis.zcard(keys.OPEN_ORDERS))

    def rest(self) -> None:
        """Let its worker have Redis's file rewritten, which it does when nobody asks for anything."""
        wait_until(lambda: not compaction.is_due(self.redis), within_s=REST_S, what="the end of a rewrite")

    def snapshot(self, skus: Sequence[str]) -> Books:
        """What the books say of these SKUs."""
        (orders,) = self.database.execute("SELECT count(*) FROM shop_order").fetchone() or (0,)
        rows = self.database.execute(
            "SELECT sku, on_sale, confirmed FROM shop_product WHERE sku = ANY(%s)", [list(skus)]
        )
        return Books(orders=orders, products={sku: (on_sale, sold) for sku, on_sale, sold in rows})

    def faults(self, before: Books, accepted: Sequence[str]) -> list[str]:
        """Lost, doubled or unended orders, units that do not add up, locks left behind."""
        ids = set(accepted)
        after = self.snapshot(list(before.products))
        found = self.database.execute(
            "SELECT status, count(*) FROM shop_order WHERE id = ANY(%s::uuid[]) GROUP BY status", [list(ids)]
        )
        ended: Counter[str] = Counter(dict(found.fetchall()))
        sold: dict[str, int] = dict(self.database.execute(SOLD, [list(ids)]).fetchall())
        return [
            *unless(len(ids) == len(accepted), f"{len(accepted) - len(ids)} orders accepted under one id"),
            *unless(ended.total() == len(ids), f"{len(ids) - ended.total()} accepted orders lost"),
            *unless(
                after.orders - before.orders == ended.total(),
                f"{after.orders - before.orders - ended.total()} orders in the books that nobody placed",
            ),
            *(
                f"{number} orders ended as {status}"
                for status, number in ended.items()
                if status not in {"confirmed", "rejected"}
            ),
            *_units(before, after, sold),
            *self._faults_in_redis(after, ids),
            *self._unreadable(list(ids)[:READ_AGAIN]),
        ]

    def audit(self) -> list[str]:
        """What the operator's own check says: counters, ledger, orders and Redis against each other."""
        try:
            self.manage("reconcile")
        except PartFailedError as found:
            return [str(found)]
        return []

    def _faults_in_redis(self, books: Books, ended: Collection[str]) -> list[str]:
        skus = list(books.products)
        free: list[Any] = list(self.redis.mget(map(keys.stock, skus))) if skus else []
        left = self._locks_left(skus, ended)
        return [
            *unless(not left, f"{len(left)} locks left behind: {dict(list(left.items())[:3])}"),
            *(
                f"{sku}: {on_sale} on sale, {sold} confirmed, but {left} free in Redis"
                for (sku, (on_sale, sold)), left in zip(books.products.items(), free, strict=True)
                if left is None or int(left) < 0 or int(left) != on_sale - sold
            ),
        ]

    def _locks_left(self, skus: Sequence[str], ended: Collection[str]) -> dict[str, str]:
        """Locks, by SKU, that are held for orders that have ended, or for longer than a lock may live.

        Others come and go: `reconcile`, once a minute, holds the lock of each SKU that it looks at again, and it looks at
        those whose orders were on their way when it began.
        """
        deadline = time.monotonic() + keys.LOCK_TTL_MS / 1000
        seen: dict[str, str] = self._holders(skus)
        left = {sku: holder for sku, holder in seen.items() if holder in ended}
        others = dict(seen.items() - left.items())
        while others and time.monotonic() < deadline:
            time.sleep(0.02)
            others = dict(others.items() & self._holders(list(others)).items())
        return left | others

    def _holders(self, skus: Sequence[str]) -> dict[str, str]:
        holders: list[Any] = list(self.redis.mget(map(keys.lock, skus))) if skus else []
        return {sku: holder for sku, holder in zip(skus, holders, strict=True) if holder is not None}

    def _unreadable(self, ids: Iterable[str]) -> list[str]:
        answers = {order_id: ask(self.address, self.get(order_id, wait_s=0)) for order_id in ids}
        return [
            f"order {order_id} cannot be read as ended: {wire.status(answer)}"
            for order_id, answer in answers.items()
            if wire.status(answer) != 200 or b'"status":"queued"' in answer
        ]


def _units(before: Books, after: Books, sold: Mapping[str, int]) -> list[str]:
    """Where the units that confirmed orders took are not the units that the counters say."""
    faults = []
    for sku, (on_sale, confirmed) in after.products.items():
        counted = confirmed - before.products[sku][1]
        if counted != sold.get(sku, 0):
            faults.append(f"{sku}: {sold.get(sku, 0)} units in confirmed orders, {counted} counted")
        if confirmed > on_sale:
            faults.append(f"{sku}: oversold by {confirmed - on_sale}")
    return faults
