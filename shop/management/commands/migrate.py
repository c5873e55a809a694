"""`manage.py migrate`: Django's own, giving way to orders."""

import time
from typing import Any, Final

from django.core.management.commands import migrate
from django.db import OperationalError, connection
from psycopg.errors import LockNotAvailable

#: How long a change of the schema waits for a lock. Whoever comes after it waits behind it, orders too.
LOCK_WAIT_MS: Final = 500
#: How often it is tried, and how long it gives way in between, in seconds.
TRIES: Final = 60
PAUSE_S: Final = 1.0


class Command(migrate.Command):
    """Migrate while the shop is open: wait for locks only shortly and again and again, and work as long as it takes.

    Each migration is a transaction, so one that found no lock changed nothing, and the next try goes on with it.
    """

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate. Raises `OperationalError` where a lock was taken each time."""
        for left in reversed(range(TRIES)):
            try:
                return self._migrate_patiently(*args, **options)
            except OperationalError as error:
                if not left or not isinstance(error.__cause__, LockNotAvailable):
                    raise
                self.stderr.write(f"A table is in use; trying again in {PAUSE_S:g} s.")
            time.sleep(PAUSE_S)
        return None

    def _migrate_patiently(self, *args: Any, **options: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {LOCK_WAIT_MS}")
            # Filling a new index takes longer than any statement of the shop may.
            cursor.execute("SET statement_timeout = 0")
        try:
            super().handle(*args, **options)
        finally:
            with connection.cursor() as cursor:
                cursor.execute("RESET lock_timeout")
                cursor.execute("RESET statement_timeout")
