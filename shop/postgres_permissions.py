"""What each process has to find in PostgreSQL: tables, columns, functions, rights of its role, a server that takes writes.

`tests/test_permissions.py` runs each process with a role that has the rights of these lists and no other.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from django.db import models

from shop.models import (
    ApiKey,
    History,
    MovementRequest,
    Order,
    OrderIdentity,
    OrderLine,
    PauseChange,
    Product,
    StockMovement,
)
from shop.redis_permissions import Process
from shop.stores import rows, store_faults

_READS: Final = "SELECT"
_ADDS: Final = "SELECT, INSERT"
_WRITES: Final = "SELECT, INSERT, UPDATE"

#: Rights for the tables of the shop. The tables of Django are for staff's pages alone, and show what is missing themselves.
NEEDED: Final[Mapping[Process, Mapping[type[models.Model], str]]] = {
    Process.WEB: {
        Order: _READS,
        OrderIdentity: _READS,
        OrderLine: _READS,
        Product: "SELECT, UPDATE",
        StockMovement: _ADDS,
        MovementRequest: _ADDS,
        ApiKey: _READS,
        PauseChange: _ADDS,
        History: _READS,
    },
    Process.WORKER: {
        Order: _WRITES,
        OrderIdentity: _ADDS,
        OrderLine: _ADDS,
        Product: _WRITES,
        StockMovement: _ADDS,
        MovementRequest: _ADDS,
        ApiKey: _READS,
        History: _WRITES,
    },
    Process.SCHEDULER: {},
}

#: Functions that it calls.
CALLED: Final[Mapping[Process, list[str]]] = {
    Process.WEB: ["shop_continues", "shop_lineage"],
    Process.WORKER: ["shop_decide", "shop_continues", "shop_lineage"],
    Process.SCHEDULER: [],
}


def lacking(process: Process) -> list[str]:
    """What this process lacks, in words; empty where it finds all that it needs. Raises `StoreUnavailable`."""
    tables = NEEDED[process]
    if not tables:
        return []
    rights = [(_name(table), right) for table, all_of in tables.items() for right in all_of.split(", ")]
    columns = [
        (_name(table), field.column) for table in tables for field in table._meta.local_concrete_fields
    ]
    found = defaultdict(list)
    with store_faults():
        lacks = rows(
            "privileges",
            relations=[table for table, _ in rights],
            privileges=[right for _, right in rights],
            column_relations=[table for table, _ in columns],
            columns=[column for _, column in columns],
            functions=CALLED[process],
        )
    for kind, table, what, _ in lacks:
        found[kind].append(
            f"{what} on {table}" if kind == "privilege" else ".".join(filter(None, (table, what)))
        )
    words = {
        "table": "PostgreSQL: role `{role}` finds no table {all}: run `python manage.py migrate`",
        "function": "PostgreSQL: role `{role}` finds no function {all}: run `python manage.py migrate`",
        "column": "PostgreSQL: there is no column {all}: run `python manage.py migrate`",
        "privilege": "PostgreSQL: role `{role}` may not {all}: grant it what it lacks (docs/go-live.md)",
        "writes": "PostgreSQL: it takes no writes from role `{role}` (a standby, or default_transaction_read_only)",
    }
    role = lacks[0][3] if lacks else ""
    return [words[kind].format(role=role, all=", ".join(sorted(all_of))) for kind, all_of in found.items()]


def _name(table: type[models.Model]) -> str:
    return table._meta.db_table
