"""Making an index while orders flow, and again after it was interrupted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently


class AddIndexBesideOrders(AddIndexConcurrently):
    """`AddIndexConcurrently` that may be repeated.

    Interrupted, PostgreSQL leaves an index that is invalid and has the name. And it is not hurried: making an index waits for
    transactions that began before it, a backup's for example, and while it waits no order waits behind it.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Make the index, of which nothing may be left of a try before."""
        with _all_the_time(schema_editor.connection):
            schema_editor.execute(
                f"DROP INDEX CONCURRENTLY IF EXISTS {schema_editor.quote_name(self.index.name)}"
            )
            super().database_forwards(app_label, schema_editor, from_state, to_state)


@contextmanager
def _all_the_time(connection: Any) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('lock_timeout')")
        (before,) = cursor.fetchone()
        cursor.execute("SET lock_timeout = 0")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", [before])
