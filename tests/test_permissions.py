"""Processes find out what Redis and PostgreSQL do not let them do, name it, and are not ready until they may."""

import fnmatch
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import redis
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection, transaction

from shop import fulfilment, keys, pauses, postgres_permissions, redis_permissions, stores
from shop.domain import Status
from shop.fulfilment import Rules
from shop.pauses import Part
from shop.redis_permissions import OF_BROKER, OF_ORDERS, Process
from shop.storage_check import insist
from shop.stores import StoreUnavailable, redis_client
from tests.builders import a_sku, accepted, an_order, wait_until
from tests.running import System, frozen
from workers import heartbeat
from workers.embedded import PostgresServer
from workers.ports import free_port
from workers.proc import descendants
from workers.transport import UNREADABLE

PASSWORD = "permissions"
#: What a process asks for and does without: settings to look at, a tidier file, names of connections.
OPTIONAL = {"config", "config|get", "info", "bgrewriteaof", "client", "client|setinfo"}
ALL_RIGHTS = ("~*", "&*", "+@all")


def allow(user: str, *rights: str) -> dict[str, str]:
    """Make a user of Redis that has these rights and no other; the settings by which a process is that user."""
    redis_client().execute_command("ACL", "SETUSER", user, "reset", "on", f">{PASSWORD}", *rights)
    parts = urlsplit(os.environ["REDIS_URL"])
    url = f"redis://{user}:{PASSWORD}@{parts.hostname}:{parts.port}/0"
    return {"REDIS_URL": url, "CELERY_BROKER_URL": url}


def rights_of(process: Process) -> list[str]:
    """The rights in Redis that the lists name, and no other."""
    rights = {"+multi", "+exec", "+discard"}
    for command in OF_ORDERS[process] + OF_BROKER[process]:
        name, *arguments = command.replace("{db}", "0").replace("worker.heartbeat", "*").split()
        rights.add(f"+{name.lower()}")
        if name in {"PUBLISH", "SUBSCRIBE", "PSUBSCRIBE"}:
            rights.add(f"&{arguments[0]}")
        elif name == "EVALSHA":
            rights |= {f"~{key}" for key in arguments[2:]}
        else:
            rights |= {f"~{pattern}" for pattern in _patterns(arguments)}
    return ["resetchannels", *sorted(rights)]


def _patterns(arguments: list[str]) -> list[str]:
    return [spec.pattern for spec in keys.SPECS if arguments and fnmatch.fnmatch(arguments[0], spec.pattern)]


def a_role(name: str, process: Process) -> dict[str, str]:
    """Make a role of PostgreSQL that has the rights of the lists; the settings by which a process has it."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP ROLE IF EXISTS {name}")
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        cursor.execute(f"GRANT USAGE ON SCHEMA public TO {name}")
        for table, rights in postgres_permissions.NEEDED[process].items():
            cursor.execute(f"GRANT {rights} ON {table._meta.db_table} TO {name}")
    parts = urlsplit(os.environ["DATABASE_URL"])
    return {"DATABASE_URL": f"postgresql://{name}:{PASSWORD}@{parts.hostname}:{parts.port}{parts.path}"}


def without_role(name: str) -> None:
    """Drop the role."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP OWNED BY {name}")
        cursor.execute(f"DROP ROLE {name}")


def executed(statement: str) -> None:
    """Execute it as the owner of the database."""
    with connection.cursor() as cursor:
        cursor.execute(statement)


class Crew(System):
    """A system that may have another worker, whose heartbeat is that of a process."""

    def _unguarded(self) -> tuple[list[str], Any]:
        argv, is_ready = self._worker()
        return ["tests.unguarded_worker" if word == self.worker_app else word for word in argv], is_ready


@pytest.fixture(scope="module")
def least(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """A system of which each process has the rights that it asks for and no other."""
    client = redis_client()
    client.flushdb()
    client.execute_command("ACL", "LOG", "RESET")
    with Crew(tmp_path_factory.mktemp("system")) as system:
        for process in Process:
            env = allow(f"least-{process}", *rights_of(process)) | a_role(f"least_{process}", process)
            system.start(process, **env)
        yield system
    for process in Process:
        without_role(f"least_{process}")
        client.execute_command("ACL", "DELUSER", f"least-{process}")


def refusals() -> list[tuple[str, str]]:
    """User and command, key or channel of what Redis has refused, but for what processes can do without."""
    logged = redis_client().execute_command("ACL", "LOG", "128")
    found = [
        entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
        for entry in logged
    ]
    return [(entry["username"], entry["object"]) for entry in found if entry["object"] not in OPTIONAL]


def names_of_workers() -> list[str]:
    found: list[str] = redis_client().zrange(heartbeat.SEEN, 0, -1)
    return found


@contextmanager
def no_heartbeat() -> Iterator[str]:
    """Forget the heartbeat of the one worker: it shows again only if the worker beats."""
    (name,) = names_of_workers()
    redis_client().delete(heartbeat.key(name))
    yield heartbeat.key(name)


def is_beating(key: str) -> Any:
    return redis_client().exists(key)


# --- what a system needs ----------------------------------------------------------------------------------


def test_each_process_works_with_the_rights_that_it_asks_for_and_no_other(least: Crew) -> None:
    sku = a_sku(stock=10)
    stock_path = f"/api/v1/products/{quote(sku)}/stock-movements"
    confirmed = least.end_of(least.place((sku, 8)).body["id"]).body
    rejected = least.end_of(least.place((sku, 8)).body["id"]).body
    cancelled = least.send("POST", f"{confirmed['href']}/cancel")
    moved = least.send("POST", stock_path, {"delta": 5, "reason": "x"}, {"Idempotency-Key": uuid.uuid4().hex})
    answers = [least.get(path).status for path in ("/metrics", "/readyz", "/", "/api/v1/products")]
    wait_until(lambda: redis_client().exists(keys.SWEEPER_HEARTBEAT), timeout_s=10, what="a sweep")
    wait_until(lambda: least.get(confirmed["href"]).body["status"] == "cancelled", what="the cancellation")

    assert (confirmed["status"], rejected["status"], cancelled.status, moved.status) == (
        "confirmed",
        "rejected",
        202,
        201,
    )
    assert answers == [200] * 4
    assert refusals() == []
    for process in Process:
        assert "permission denied" not in least.log(process)
        assert "can't do its work" not in least.log(process)


def test_a_right_that_the_lists_forget_would_be_noticed_and_costs_a_client_no_more_than_a_while(
    least: Crew,
) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    redis_client().execute_command("ACL", "SETUSER", "least-web", "-evalsha")
    try:
        refused = least.place((sku, 1), key=key)
        assert ("least-web", "evalsha") in refusals()
    finally:
        redis_client().execute_command("ACL", "SETUSER", "least-web", "+evalsha")
        redis_client().execute_command("ACL", "LOG", "RESET")

    assert (refused.status, refused.body["type"], refused.headers["Retry-After"] != "") == (
        503,
        "unavailable",
        True,
    )
    assert least.end_of(least.place((sku, 1), key=key).body["id"]).body["status"] == "confirmed"


# --- readiness --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["resetchannels", "-evalsha"])
def test_a_worker_that_may_not_do_its_work_any_more_is_missing_until_it_may(least: Crew, taken: str) -> None:
    client, sku = redis_client(), a_sku(stock=10)
    before = least.log("worker").count("NoPermissionError")
    client.execute_command("ACL", "SETUSER", "least-worker", taken)
    try:
        wait_until(lambda: least.log("worker").count("NoPermissionError") > before, what="the worker's loss")
        with no_heartbeat() as key:
            ready = least.get("/readyz")
            placed = least.place((sku, 1)).body["id"]
            tries = least.log("worker").count("NoPermissionError")
            wait_until(lambda: least.log("worker").count("NoPermissionError") > tries + 4, what="vain tries")
            was_beating = is_beating(key)
    finally:
        allow("least-worker", *rights_of(Process.WORKER))
    assert (ready.status, ready.body["detail"], was_beating) == (503, "Missing: worker.", 0)
    assert least.end_of(placed).body["status"] == "confirmed"
    wait_until(lambda: least.get("/readyz").status == 200, what="the worker's heartbeat")


def test_a_heartbeat_of_the_process_alone_would_hide_that(least: Crew) -> None:
    others = set(names_of_workers())
    least.start("unguarded", **allow("unguarded", *ALL_RIGHTS))
    try:
        (name,) = set(names_of_workers()) - others
        redis_client().execute_command("ACL", "SETUSER", "unguarded", "resetchannels")
        wait_until(lambda: "NoPermissionError" in least.log("unguarded"), what="the worker's loss")
        redis_client().delete(heartbeat.key(name))

        wait_until(lambda: is_beating(heartbeat.key(name)), what="a heartbeat of one that can take no order")
    finally:
        least.kill("unguarded")
        redis_client().zrem(heartbeat.SEEN, *set(names_of_workers()) - others)
        redis_client().execute_command("ACL", "DELUSER", "unguarded")


def test_a_worker_of_a_paused_shop_without_postgresql_can_take_orders_and_postgresql_is_missing(
    least: Crew, postgres_server: PostgresServer
) -> None:
    sku = a_sku(stock=10)
    pauses.pause(redis_client(), Part.FULFILMENT, who="tests", reason="x")
    try:
        placed = least.place((sku, 1)).body["id"]
        with no_heartbeat() as key:
            wait_until(lambda: is_beating(key), what="a heartbeat while fulfilment is paused")
        paused = least.get("/readyz")
    finally:
        pauses.resume(redis_client(), Part.FULFILMENT, who="tests")
    connection.close()
    with frozen(postgres_server.pid, *descendants(postgres_server.pid)):
        placed_meanwhile = least.place((sku, 1)).body["id"]
        with no_heartbeat() as key:
            wait_until(lambda: is_beating(key), what="a heartbeat while PostgreSQL is away")
        away = least.get("/readyz")

    assert paused.status == 200
    assert (away.status, away.body["detail"]) == (503, "Missing: PostgreSQL.")
    assert {least.end_of(order_id).body["status"] for order_id in (placed, placed_meanwhile)} == {"confirmed"}


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("REVOKE SELECT ON shop_order FROM least_web", "GRANT SELECT ON shop_order TO least_web"),
        (
            "ALTER ROLE least_web SET default_transaction_read_only = on",
            "ALTER ROLE least_web RESET default_transaction_read_only",
        ),
    ],
)
def test_a_postgresql_that_reads_or_writes_nothing_for_us_is_missing(
    least: Crew, broken: str, mended: str
) -> None:
    anew = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'least_web'"
    for statement in (broken, anew):
        executed(statement)
    try:
        refused = least.get("/readyz")
    finally:
        for statement in (mended, anew):
            executed(statement)

    assert (refused.status, refused.body["detail"]) == (503, "Missing: PostgreSQL.")
    wait_until(lambda: least.get("/readyz").status == 200, what="a PostgreSQL that is well again")


def what_was_done() -> list[str]:
    """Where commands that were only to be tried have left something; the lists also hold what the system does."""
    client = redis_client()
    lists = (keys.ORDER_QUEUE, keys.MAINTENANCE_QUEUE, UNREADABLE)
    left = [name for name in lists if "probe" in client.lrange(name, 0, -1)]
    return [*left, *client.scan_iter(match="*probe*")]


# --- what is named ----------------------------------------------------------------------------------------


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, client: "redis.Redis") -> Iterator[Callable[..., str]]:
    """Lets the processes of a test be a user with these rights."""
    name = f"user-{uuid.uuid4().hex[:6]}"

    def with_rights(*rights: str) -> str:
        for setting, value in allow(name, *rights).items():
            monkeypatch.setattr(settings, setting, value)
        return name

    yield with_rights
    client.execute_command("ACL", "DELUSER", name)


@pytest.mark.parametrize(
    ("rights", "process", "told"),
    [
        (("~*", "resetchannels", "+@all"), Process.WORKER, "PSUBSCRIBE /0.celery.pidbox"),
        (("~*", "resetchannels", "+@all"), Process.WEB, "SUBSCRIBE orders:settled"),
        (
            ("~*", "resetchannels", "&orders:settled", "+@all"),
            Process.WORKER,
            "PUBLISH /0.celeryev/worker.heartbeat",
        ),
        (("~*", "&*", "+@all", "-eval", "-evalsha"), Process.WORKER, "EVALSHA"),
        (("~*", "&*", "+@all", "-script"), Process.WEB, "SCRIPT LOAD"),
        (("~only*", "&*", "+@all"), Process.WEB, "and [0-9]+ more"),
        ((), Process.WEB, "SELECT|MULTI"),
        (("~*", "&*", "+@all", "-multi"), Process.WEB, "MULTI"),
        (("~*", "&*", "+@all", "-exec"), Process.WORKER, "EXEC"),
        (("~*", "&*", "+@all", "-lpush"), Process.SCHEDULER, "LPUSH maintenance"),
        (("~*", "&*", "+@all", "-blmove"), Process.WORKER, "BLMOVE orders"),
    ],
)
def test_what_redis_refuses_is_named(
    user: Callable[..., str], rights: tuple[str, ...], process: Process, told: str
) -> None:
    name = user(*rights)

    (problem,) = redis_permissions.refused(process)

    assert f"Redis: user `{name}` may not " in problem
    assert re.search(told, problem)
    assert redis_permissions.RIGHTS in problem
    assert what_was_done() == []


@pytest.mark.parametrize("process", Process)
def test_nobody_who_has_the_rights_of_the_guide_is_refused_anything(
    user: Callable[..., str], process: Process
) -> None:
    user(*redis_permissions.RIGHTS.split())

    assert redis_permissions.refused(process) == []
    insist(process)
    assert what_was_done() == []


@pytest.fixture
def role() -> Iterator[str]:
    """A role with the rights of a worker, which the test then has."""
    name = f"role_{uuid.uuid4().hex[:6]}"
    a_role(name, Process.WORKER)
    executed(f"SET ROLE {name}")
    yield name
    executed("RESET ROLE")
    without_role(name)


def as_owner(role: str, statement: str) -> None:
    """Change something about the role that the test has."""
    executed("RESET ROLE")
    executed(statement)
    executed(f"SET ROLE {role}")


@pytest.mark.parametrize("table", ["shop_order", "shop_orderidentity"])
def test_what_postgresql_refuses_is_named_and_costs_no_order_anything(
    role: str, client: "redis.Redis", table: str
) -> None:
    assert postgres_permissions.lacking(Process.WORKER) == []
    executed("RESET ROLE")
    (order,) = accepted(client, an_order((a_sku(stock=10), 1)))
    as_owner(role, f"REVOKE INSERT ON {table} FROM {role}")

    (problem,) = postgres_permissions.lacking(Process.WORKER)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=f"permission denied for table {table}"):
            fulfilment.fulfil([order], client=client, rules=Rules(max_attempts=1))
    as_owner(role, f"GRANT INSERT ON {table} TO {role}")

    assert problem.startswith(f"PostgreSQL: role `{role}` may not INSERT on {table}: ")
    assert fulfilment.fulfil([order], client=client) == {order.id: Status.CONFIRMED}


def test_without_taking_a_refusal_for_a_store_that_is_unavailable_it_is_a_fault_of_the_order(
    role: str, client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    executed("RESET ROLE")
    (order,) = accepted(client, an_order((a_sku(stock=10), 1)))
    as_owner(role, f"REVOKE INSERT ON shop_order FROM {role}")
    monkeypatch.setattr(stores, "_NOT_SET_UP", ())

    with pytest.raises(ProgrammingError):
        fulfilment.fulfil([order], client=client, rules=Rules(max_attempts=1))


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (
            "ALTER TABLE shop_orderline RENAME TO elsewhere",
            "no table shop_orderline: run `python manage.py migrate`",
        ),
        (
            "ALTER TABLE shop_order RENAME reason TO why",
            "no column shop_order.reason: run `python manage.py migrate`",
        ),
        (
            "ALTER FUNCTION shop_decide RENAME TO elsewhere",
            "no function shop_decide: run `python manage.py migrate`",
        ),
        ("SET LOCAL transaction_read_only = on", "takes no writes"),
    ],
)
def test_what_is_not_there_is_named(broken: str, told: str) -> None:
    with transaction.atomic():
        executed(broken)
        (problem,) = postgres_permissions.lacking(Process.WORKER)
        transaction.set_rollback(True)

    assert told in problem
    assert postgres_permissions.lacking(Process.WORKER) == []


@pytest.mark.parametrize(
    ("broken", "mended", "told"),
    [
        (
            "REVOKE USAGE ON SCHEMA public FROM PUBLIC, {role}",
            "GRANT USAGE ON SCHEMA public TO PUBLIC, {role}",
            "may not USAGE on schema public: ",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION shop_decide FROM PUBLIC",
            "GRANT EXECUTE ON FUNCTION shop_decide TO PUBLIC",
            "may not EXECUTE on shop_decide: ",
        ),
    ],
)
def test_a_right_that_everybody_has_by_default_is_named_where_it_is_missing(
    role: str, broken: str, mended: str, told: str
) -> None:
    as_owner(role, broken.format(role=role))
    try:
        (problem,) = postgres_permissions.lacking(Process.WORKER)
    finally:
        as_owner(role, mended.format(role=role))

    assert told in problem
    assert "migrate" not in problem


# --- what becomes of a process that is refused ------------------------------------------------------------


def test_processes_that_redis_refuses_say_so_and_end(tmp_path: Path, client: "redis.Redis") -> None:
    env = os.environ | allow("refused", "~*", "resetchannels", "+@all", "-sadd")
    celery = ["celery", "-A", "workers.app"]
    programs = [
        ["shop.web", "--port", str(free_port())],
        [*celery, "worker", "-l", "WARNING", "--concurrency", "1"],
        [*celery, "beat", "--pidfile=", "--schedule", str(tmp_path / "schedule")],
    ]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", *argv], env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        for argv in programs
    ]
    ends = [(child.communicate(timeout=60)[1].decode(), child.returncode) for child in running]

    for (logged, code), named in zip(ends, ("orders:settled", "celery.pidbox", "SADD"), strict=True):
        assert code == 1
        assert "this process can't do its work" in logged
        assert named in logged
        assert "Traceback" not in logged
    client.execute_command("ACL", "DELUSER", "refused")


def test_prepare_names_what_any_process_lacks(user: Callable[..., str]) -> None:
    name = user("~*", "&*", "+@all", "-evalsha")

    with pytest.raises(CommandError, match=f"user `{name}` may not EVALSHA"):
        call_command("prepare")


def test_a_store_that_is_unavailable_keeps_no_process_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for setting in ("REDIS_URL", "CELERY_BROKER_URL"):
        monkeypatch.setattr(settings, setting, f"redis://127.0.0.1:{free_port()}/0")

    for process in Process:
        insist(process)

    assert "permissions in Redis could not be checked" in caplog.text


def test_a_postgresql_that_is_away_keeps_no_process_from_starting(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    connection.close()
    postgres_server.stop()
    try:
        insist(Process.WEB)
        insist(Process.WORKER)
    finally:
        postgres_server.start()

    assert caplog.text.count("permissions in PostgreSQL could not be checked") == 2
