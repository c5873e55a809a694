"""`manage.py revoke_api_key NAME`"""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from shop.clients import revoke_keys
from shop.stores import StoreUnavailable


class Command(BaseCommand):
    """End the API keys of a client."""

    help = "End every API key of a client, within 5 seconds. Its orders stay."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The client."""
        parser.add_argument("name")

    def handle(self, *args: Any, **options: Any) -> None:
        """End them."""
        try:
            ended = revoke_keys(options["name"])
        except StoreUnavailable as away:
            raise CommandError(f"nothing was revoked, try again: {away}") from away
        if not ended:
            raise CommandError(f"{options['name']} has no key that is alive")
        self.stderr.write(f"{ended} key(s) of {options['name']} revoked")
