"""PostgreSQL that hangs up, is full, is locked, or takes no writes."""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final

import psycopg
from psycopg import sql

from tests.chaos.clients import HOT, SCARCE
from tests.chaos.fault import Fault, NotInjected
from tests.chaos.site import Site

_OURS: Final = "FROM pg_stat_activity WHERE application_name = 'reserva'"


def _terminate(site: Site, _: Random) -> None:
    with site.books() as books:
        if not books.execute(f"SELECT pg_terminate_backend(pid) {_OURS}").fetchall():
            raise NotInjected("nobody was connected")


def _exhaust(site: Site, random: Random) -> list[psycopg.Connection]:
    """Hang up on everybody, and take what connections there are before they come back."""
    _terminate(site, random)
    taken: list[psycopg.Connection] = []
    with suppress(psycopg.OperationalError):
        while len(taken) < 200:
            taken.append(site.connect())
    if not taken:
        raise NotInjected("there was no connection to take")
    return taken


def _close(_: Site, connections: list[psycopg.Connection]) -> None:
    for connection in connections:
        connection.close()


def _lock(statement: str) -> Callable[[Site, Random], list[psycopg.Connection]]:
    def inject(site: Site, _: Random) -> list[psycopg.Connection]:
        connection = site.connect(options="-c lock_timeout=1000")
        connection.autocommit = False
        try:
            connection.execute(sql.SQL(statement))
        except psycopg.OperationalError as error:
            connection.close()
            raise NotInjected(str(error)) from error
        return [connection]

    return inject


def _refuse_writes(site: Site, _: Random) -> None:
    _set(site, "ALTER SYSTEM SET default_transaction_read_only = on")


def _take_writes(site: Site, _: object) -> None:
    _set(site, "ALTER SYSTEM RESET default_transaction_read_only")


def _set(site: Site, statement: str) -> None:
    with site.books() as books:
        books.execute(sql.SQL(statement))
        books.execute("SELECT pg_reload_conf()")


def _held(name: str, description: str, inject: Callable[[Site, Random], Any], heal: Any) -> Fault:
    return Fault(
        name=name, description=description, answers=True, inject=inject, heal=heal, hold_s=(0.4, 1.6)
    )


_names = ", ".join(f"'{sku}'" for sku in HOT + SCARCE)

FAULTS: Final = (
    Fault(
        name="connections-terminated",
        description="pg_terminate_backend of all connections",
        answers=True,
        inject=_terminate,
    ),
    _held("connections-exhausted", "all connections taken by somebody else", _exhaust, _close),
    _held(
        "products-locked",
        "the table of products locked",
        _lock("LOCK TABLE shop_product IN ACCESS EXCLUSIVE MODE"),
        _close,
    ),
    _held(
        "orders-locked",
        "the table of orders locked, for readers too",
        _lock("LOCK TABLE shop_order IN ACCESS EXCLUSIVE MODE"),
        _close,
    ),
    _held(
        "rows-locked",
        "the rows of the most wanted products locked",
        _lock(f"SELECT sku FROM shop_product WHERE sku IN ({_names}) ORDER BY sku FOR UPDATE"),
        _close,
    ),
    _held("read-only", "default_transaction_read_only is on", _refuse_writes, _take_writes),
)
