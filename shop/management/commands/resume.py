"""`manage.py resume [intake|fulfilment]`"""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from shop import pauses
from shop.management.commands.pause import operator
from shop.pauses import Part
from shop.stores import StoreUnavailable, redis_client


class Command(BaseCommand):
    """End pauses."""

    help = "End the pause of a part of the system; without a part, of all."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The part."""
        parser.add_argument("part", nargs="?", choices=[str(part) for part in Part])

    def handle(self, *_: Any, part: str | None, **__: Any) -> None:
        """Raises CommandError where Redis is away."""
        try:
            parts = [Part(part)] if part else list(Part)
            ended = [part for part in parts if pauses.resume(redis_client(), part, who=operator())]
        except StoreUnavailable as away:
            raise CommandError(f"could not be resumed: {away}") from away
        for resumed in ended:
            self.stdout.write(f"{resumed} goes on.")
        if not ended:
            self.stdout.write("Nothing was paused.")
