"""PostgreSQL behind a PgBouncer in transaction mode, set up as docs/go-live.md says.

The role there owns a database and is nothing more, as the page wants it.
"""

import os
import pwd
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
from django.db import connection
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.builders import wait_until
from tests.pages import ROOT, Page
from tests.programs import PGBOUNCER, Running
from tests.running import System
from workers.embedded import CAP_DAC_READ_SEARCH, UNPRIVILEGED_ACCOUNT, PostgresServer
from workers.ports import LOOPBACK, free_port
from workers.processes import Part, User

PAGE = Page(path=ROOT / "docs" / "go-live.md", text=(ROOT / "docs" / "go-live.md").read_text())
CATALOGUE = "sku,name,price,stock\nX,A product,2.50,1000\nRARE,Another,9.00,10\n"


def _unprivileged() -> User:
    """PgBouncer refuses root. This account reads what it is given, in folders that are root's."""
    account = pwd.getpwnam(UNPRIVILEGED_ACCOUNT)
    return User(uid=account.pw_uid, gid=account.pw_gid, capability=CAP_DAC_READ_SEARCH)


class PgBouncer(Running):
    """A PgBouncer before the database of an address, with the settings that the page gives it."""

    def __init__(self, folder: Path, database_url: str) -> None:
        super().__init__()
        server = urlsplit(database_url)
        self.port = free_port()
        self.url = database_url.replace(f"{server.hostname}:{server.port}", f"{LOOPBACK}:{self.port}")
        (settings,) = (block for block in PAGE.blocks("ini") if "pool_mode" in block)
        database = f"* = host={server.hostname} port={server.port}"
        (folder / "pgbouncer.ini").write_text(
            f"""[databases]
{database}
[pgbouncer]
{settings}
listen_addr = {LOOPBACK}
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder / "users.txt"}
; Few, so that clients share them.
default_pool_size = 4
"""
        )
        (folder / "users.txt").write_text(f'"{server.username}" "{server.password}"\n')
        self.part = Part(
            name="pgbouncer",
            argv=[PGBOUNCER.installed, str(folder / "pgbouncer.ini")],
            log=folder / "pgbouncer.log",
            user=_unprivileged() if os.geteuid() == 0 else None,
            is_ready=self._is_ready,
        )

    def _is_ready(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


class Shop:
    """A database of its own behind a PgBouncer, and who runs its commands. `url`: of the server, for its superuser."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.password = uuid.uuid4().hex
        self.name = f"shop_{uuid.uuid4().hex[:8]}"
        server = urlsplit(url)
        self.direct_url = f"postgresql://{self.name}:{self.password}@{LOOPBACK}:{server.port}/{self.name}"
        self.pgbouncer = PgBouncer(folder, self.direct_url)
        self.env = {"DATABASE_URL": self.pgbouncer.url, "PGBOUNCER": "true"}
        self._programs = PostgresServer(folder / "programs").programs
        self._url = url
        self._order("CREATE ROLE {name} LOGIN PASSWORD {password}", "CREATE DATABASE {name} OWNER {name}")

    def drop_database(self) -> None:
        """Leave nothing on the server."""
        self._order("DROP DATABASE {name} WITH (FORCE)", "DROP ROLE {name}")

    def _order(self, *statements: LiteralString) -> None:
        names = {"name": sql.Identifier(self.name), "password": sql.Literal(self.password)}
        with psycopg.connect(self._url, autocommit=True) as superuser:
            for statement in statements:
                superuser.execute(sql.SQL(statement).format(**names))

    def run(self, command: str, stdin: str = "", **env: str) -> str:
        """Run a command as a page shows it; what it printed."""
        path = f"{Path(sys.executable).parent}:{self._programs}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=ROOT,
            env={**os.environ, **self.env, "PATH": path, **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def through_the_pool(self, **options: Any) -> "psycopg.Connection[Any]":
        """A connection as our processes open theirs, but to the PgBouncer."""
        ours = {**connection.get_connection_params(), **conninfo_to_dict(self.pgbouncer.url), **options}
        for of_django in ("cursor_factory", "context", "server_side_binding"):
            ours.pop(of_django, None)
        return psycopg.connect(autocommit=True, **ours)

    def ask(self, statement: LiteralString) -> list[tuple[Any, ...]]:
        """PostgreSQL's own word, past the PgBouncer."""
        with psycopg.connect(self.direct_url) as direct:
            return direct.execute(statement).fetchall()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Made as the page says: migrated past the PgBouncer, the role with time-outs of its own."""
    made = Shop(tmp_path_factory.mktemp("pgbouncer"), os.environ["DATABASE_URL"])
    (time_outs,) = (command for command in PAGE.commands() if "ALTER ROLE" in command)
    made.run("python manage.py migrate --verbosity 0", DATABASE_URL=made.direct_url)
    made.run(time_outs, DATABASE_URL=made.direct_url)
    made.pgbouncer.start()
    try:
        yield made
    finally:
        made.pgbouncer.stop()
        made.drop_database()


@pytest.fixture(scope="module")
def system(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Web, worker and scheduler, which know no other PostgreSQL than the one behind the PgBouncer."""
    from shop.stores import redis_client

    redis_client().flushdb()
    shop.run("python manage.py load_catalogue -", stdin=CATALOGUE)
    running = System(tmp_path_factory.mktemp("system"), shop.env)
    running.api_key = shop.run("python manage.py create_api_key tests --scope orders --scope stock").strip()
    try:
        yield running.start()
    finally:
        running.__exit__()


def test_orders_end_as_they_should_and_what_was_decided_is_found(system: System, shop: Shop) -> None:
    confirmed = system.end_of(system.place(("RARE", 8)).body["id"]).body
    rejected = system.end_of(system.place(("RARE", 8)).body["id"]).body
    cancelled = system.end_of(system.place(("RARE", 2)).body["id"]).body
    system.send("POST", f"{cancelled['href']}/cancel")
    moved = system.send(
        "POST",
        "/api/v1/products/RARE/stock-movements",
        {"delta": 5, "reason": "delivery"},
        {"Idempotency-Key": "m"},
    )

    assert (confirmed["status"], rejected["status"], moved.status) == ("confirmed", "rejected", 201)
    wait_until(
        lambda: system.get(cancelled["href"]).body["status"] == "cancelled",
        what="the end of the cancellation",
    )
    assert system.get("/api/v1/products/RARE").body["available"] == 10 + 5 - 8
    assert shop.ask("SELECT on_sale, confirmed FROM shop_product WHERE sku = 'RARE'") == [(15, 8)]


def test_nothing_is_lost_when_the_pgbouncer_is_started_anew_while_orders_come(
    system: System, shop: Shop
) -> None:
    placed: list[str] = []
    answers: Counter[int] = Counter()
    is_over = threading.Event()

    def buy() -> None:
        while not is_over.is_set():
            answer = system.place(("X", 1))
            answers[answer.status] += 1
            placed.append(answer.body["id"])

    buyers = [threading.Thread(target=buy) for _ in range(4)]
    for buyer in buyers:
        buyer.start()
    try:
        wait_until(lambda: len(placed) > 20, what="orders before")
        shop.pgbouncer.stop()
        before = len(placed)
        wait_until(lambda: len(placed) > before + 5, what="orders without PostgreSQL")
        shop.pgbouncer.start()
        before = len(placed)
        wait_until(lambda: len(placed) > before + 20, what="orders afterwards")
    finally:
        is_over.set()
        for buyer in buyers:
            buyer.join()
    ends = Counter(system.end_of(order_id).body["status"] for order_id in placed)

    assert set(answers) == {202}
    assert ends == {"confirmed": len(placed)}
    assert shop.ask("SELECT confirmed FROM shop_product WHERE sku = 'X'") == [(len(placed),)]
    assert "0 differences" in shop.run("python manage.py reconcile")


def test_each_statement_has_its_time_out_although_nobody_hears_of_it_from_the_connection(shop: Shop) -> None:
    with shop.through_the_pool() as opened:
        found = [
            opened.execute(f"SHOW {name}").fetchone()
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        ]

    assert found == [("3s",), ("2500ms",), ("10s",)]


def test_prepared_statements_would_meet_those_of_others(shop: Shop) -> None:
    assert connection.settings_dict["OPTIONS"]["prepare_threshold"] == 2, "without PGBOUNCER=true"

    with shop.through_the_pool() as one, shop.through_the_pool() as other:
        found = [_fault(each) for each in [one, other] * 4]
    assert psycopg.errors.DuplicatePreparedStatement in found

    unprepared = {"prepare_threshold": None}
    with shop.through_the_pool(**unprepared) as one, shop.through_the_pool(**unprepared) as other:
        assert {_fault(each) for each in [one, other] * 4} == {None}


def _fault(opened: "psycopg.Connection[Any]") -> type[Exception] | None:
    try:
        opened.execute("SELECT 1")
    except psycopg.Error as error:
        return type(error)
    return None
