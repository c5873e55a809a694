"""`manage.py create_api_key NAME --scope orders --scope stock`"""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from shop.clients import SCOPES, create_key, name_refusal


class Command(BaseCommand):
    """Make an API key."""

    help = "Make an API key for a client and print it, once, alone on standard output."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Name and scopes."""
        parser.add_argument(
            "name", help="the client that owns the key's orders: letters, digits, '.', '_', '-'"
        )
        parser.add_argument(
            "--scope", action="append", choices=SCOPES, help="may be given more than once (default: orders)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Make it."""
        if refusal := name_refusal(options["name"]):
            raise CommandError(refusal)
        self.stdout.write(create_key(options["name"], sorted(set(options["scope"] or ["orders"]))))
