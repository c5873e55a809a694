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
        """The client, and which of its keys."""
        parser.add_argument("name")
        parser.add_argument(
            "--keep-newest",
            action="store_true",
            help="end all but the newest, when the client has changed over to it",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """End them."""
        try:
            ended = revoke_keys(options["name"], keep_newest=options["keep_newest"])
        except StoreUnavailable as away:
            raise CommandError(f"nothing was revoked, try again: {away}") from away
        if not ended:
            other = " other" if options["keep_newest"] else ""
            raise CommandError(f"{options['name']} has no{other} key that is alive")
        self.stderr.write(f"{ended} key(s) of {options['name']} revoked")
