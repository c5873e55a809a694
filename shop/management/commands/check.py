"""`manage.py check`: Django's own, and what it finds among the API keys."""

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.core.management.commands.check import Command as DjangosCheck
from django.db import DatabaseError

from shop import clients


class Command(DjangosCheck):
    """Check the project, and the keys that the database has, where it answers."""

    def handle(self, *labels: Any, **options: Any) -> None:
        """Register here alone what asks PostgreSQL: other commands and Celery run all checks that there are."""
        checks.register(check_names)
        super().handle(*labels, **options)


def check_names(app_configs: Sequence[Any] | None, **_: Any) -> list[checks.CheckMessage]:
    """An error for each name of the shop's own that a key is good for. None where the database is unavailable."""
    try:
        taken = clients.own_names_with_keys()
    except DatabaseError:
        return []
    return [
        checks.Error(
            f"An API key is good for the client {name!r}, which is the shop itself: it opens every buyer's orders.",
            hint=f"End it with `manage.py revoke_api_key {name}`, and make another one under another name.",
            id="shop.E002",
        )
        for name in taken
    ]
