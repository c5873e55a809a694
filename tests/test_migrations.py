"""Each migration may run while processes of the release before it work, and without rewriting a large table."""

import dataclasses
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import msgspec
import psycopg
import pytest
import redis
from django.conf import settings
from django.contrib.postgres.operations import (
    AddConstraintNotValid,
    AddIndexConcurrently,
    RemoveIndexConcurrently,
    ValidateConstraint,
)
from django.db import connection, migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.models.functions import Now
from django.db.models.functions.math import Random

from shop import books, movements
from shop.books import Intent, Question, Stock
from shop.domain import Status
from shop.movements import Movement
from tests.builders import a_sku, an_order, wait_until

#: Ran before anybody had orders.
FIRST_RELEASE = ("0001_initial", "0002_append_only_ledger")
HARMLESS = (
    migrations.CreateModel,
    migrations.AlterModelOptions,
    migrations.AlterModelManagers,
    AddIndexConcurrently,
    RemoveIndexConcurrently,
    AddConstraintNotValid,
    ValidateConstraint,
)


def faults(migration: Any) -> list[str]:
    """What processes of the release before would trip over, or what would keep a large table locked for long.

    A migration that says `beside_previous_release`, and why, was thought through by somebody: for a column that no running
    release names any more, for example.
    """
    if getattr(migration, "beside_previous_release", ""):
        return []
    created = {each.name_lower for each in migration.operations if isinstance(each, migrations.CreateModel)}
    return [fault for each in migration.operations for fault in _faults(each, created)]


def _faults(operation: Operation, created: set[str]) -> Iterator[str]:
    if isinstance(operation, migrations.SeparateDatabaseAndState):
        for each in operation.database_operations:
            yield from _faults(each, created)
    elif getattr(operation, "model_name", "").lower() in created or isinstance(operation, HARMLESS):
        return
    elif isinstance(operation, migrations.AddField):
        yield from _faults_of_field(operation.field)
    else:
        yield f"{type(operation).__name__}: {operation.describe()}"


def _faults_of_field(field: Any) -> Iterator[str]:
    default = field.db_default
    if not field.null and not field.has_db_default():
        yield f"{field.name}: the release before writes no value for it"
    if field.unique or field.db_index:
        yield f"{field.name}: its index is not made concurrently"
    if not isinstance(default, models.Value | Now) and field.has_db_default() and not _is_plain(default):
        yield f"{field.name}: a default that differs from row to row rewrites the table"


def _is_plain(default: object) -> bool:
    return isinstance(default, int | str | bool | float)


def a_migration(*operations: Operation, **attributes: object) -> Any:
    """A migration with these operations."""
    return type("Migration", (migrations.Migration,), {"operations": list(operations), **attributes})


def test_processes_of_the_release_before_can_work_beside_every_migration() -> None:
    loader = MigrationLoader(connection)
    ours = {name: found for (app, name), found in loader.disk_migrations.items() if app == "shop"}

    found = {name: faults(migration) for name, migration in ours.items() if name not in FIRST_RELEASE}

    assert set(FIRST_RELEASE) <= set(ours)
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    "operation",
    [
        migrations.RemoveField("order", "customer"),
        migrations.RenameField("order", "customer", "buyer"),
        migrations.DeleteModel("ApiKey"),
        migrations.RenameModel("Order", "Sale"),
        migrations.AlterField("order", "customer", models.CharField(max_length=255)),
        migrations.AlterModelTable("order", "orders"),
        migrations.AddField("order", "channel", models.CharField(max_length=16)),
        migrations.AddField("order", "channel", models.CharField(max_length=16, null=True, db_index=True)),
        migrations.AddField("order", "luck", models.FloatField(db_default=Random())),
        migrations.AddIndex("order", models.Index(fields=["client"], name="by_client")),
        migrations.AddConstraint("order", models.UniqueConstraint(fields=["reference"], name="once")),
        migrations.RunSQL("UPDATE shop_order SET customer = ''"),
        migrations.RunPython(migrations.RunPython.noop),
        migrations.SeparateDatabaseAndState([migrations.RemoveField("order", "customer")]),
    ],
    ids=lambda operation: operation.describe(),
)
def test_what_the_release_before_would_trip_over_is_refused_unless_somebody_says_why_it_may_be(
    operation: Operation,
) -> None:
    assert faults(a_migration(operation))
    assert not faults(a_migration(operation, beside_previous_release="no running release names it"))


def test_what_only_adds_is_allowed() -> None:
    adding = a_migration(
        migrations.CreateModel("Label", [("id", models.BigAutoField(primary_key=True))]),
        migrations.AddIndex("label", models.Index(fields=["id"], name="label_by_id")),
        migrations.AddField("order", "channel", models.CharField(max_length=16, null=True)),
        migrations.AddField("product", "weight_g", models.IntegerField(db_default=0)),
        migrations.AddField("product", "seen_at", models.DateTimeField(db_default=Now())),
        AddIndexConcurrently("order", models.Index(fields=["client"], name="by_client")),
    )

    assert faults(adding) == []


def test_the_models_have_no_change_without_a_migration() -> None:
    from django.core.management import call_command

    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_orders_and_requests_from_before_are_there_once_afterwards(client: "redis.Redis") -> None:
    from django.core.management import call_command

    sku = a_sku(stock=10)
    order, request = an_order((sku, 3)), str(uuid.uuid4())
    copy = msgspec.structs.replace(order, accepted_at_ms=order.accepted_at_ms + 1)
    before = books.decide([Question(order=order, intent=Intent.TAKE)]).outcomes
    made = moved(client, sku, request)

    call_command("migrate", "shop", "0005", verbosity=0)
    call_command("migrate", verbosity=0)

    assert books.decide([Question(order=copy, intent=Intent.FAILED)]).outcomes == before
    assert moved(client, sku, request) == dataclasses.replace(made, fresh=False)
    assert books.stock_of([sku]) == {sku: Stock(version=3, free=12)}
    books.cancel(order.id)
    assert books.recorded([order.id])[order.id].status is Status.CANCELLED


def moved(client: "redis.Redis", sku: str, request: str) -> Movement:
    """A delivery of five units, made or found."""
    found = movements.move(client=client, request=request, by="shop", sku=sku, delta=5, reason="count")
    assert isinstance(found, Movement)
    return found


def state_of(index: str) -> tuple[bool, str]:
    """Whether an index may be used, and how it was made."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indisvalid, pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid = to_regclass(%s)",
            [index],
        )
        is_valid, definition = cursor.fetchone()
    return is_valid, definition


def test_an_index_whose_making_was_interrupted_is_made_again() -> None:
    from django.core.management import call_command

    call_command("migrate", "shop", "0004", verbosity=0)
    with connection.cursor() as cursor:
        # As PostgreSQL leaves it: there, by its name, and of no use.
        cursor.execute("CREATE INDEX order_by_status ON shop_order (fingerprint)")
        cursor.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'order_by_status'::regclass"
        )

    call_command("migrate", verbosity=0)

    is_valid, definition = state_of("order_by_status")
    assert is_valid
    assert "(status, accepted_at DESC)" in definition


def test_making_an_index_waits_for_an_old_transaction_and_for_no_lock_of_orders() -> None:
    from django.core.management import call_command

    call_command("migrate", "shop", "0004", verbosity=0)
    with psycopg.connect(settings.DATABASE_URL) as backup, ThreadPoolExecutor(max_workers=1) as threads:
        backup.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        backup.execute("SELECT count(*) FROM shop_order")
        migrating = threads.submit(migrated_in_a_thread)
        with psycopg.connect(settings.DATABASE_URL, autocommit=True) as buyer:
            wait_until(lambda: waiting_for_old_transactions(buyer), what="the index, waiting")
            buyer.execute("SET lock_timeout = 500")
            buyer.execute("UPDATE shop_order SET status = status WHERE false")
        # Longer than `migrate` waits for any other lock.
        assert not wait([migrating], timeout=1.5).done
        backup.rollback()
        migrating.result(timeout=60)

    assert state_of("order_by_status")[0]


def migrated_in_a_thread() -> None:
    from django.core.management import call_command

    try:
        call_command("migrate", verbosity=0)
    finally:
        connection.close()


def waiting_for_old_transactions(buyer: "psycopg.Connection") -> bool:
    found = buyer.execute(
        "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"
    ).fetchone()
    return found is not None
