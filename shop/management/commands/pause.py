"""`manage.py pause intake|fulfilment --reason TEXT`"""

import argparse
import getpass
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from shop import pauses
from shop.domain import TEXT_MAX_LENGTH
from shop.pauses import Part
from shop.stores import StoreUnavailable, redis_client


class Command(BaseCommand):
    """Stop taking new orders in, or working on those that wait."""

    help = (
        "Pause a part of the system, until `resume`. intake: new orders get 503 and their keys stay unused; what was placed"
        " before can be read, repeated and cancelled. fulfilment: orders stay queued, without losing attempts."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The part, and why."""
        parser.add_argument("part", choices=[str(part) for part in Part])
        parser.add_argument("--reason", required=True, type=_reason, help="why; the board shows it")

    def handle(self, *_: Any, part: str, reason: str, **__: Any) -> None:
        """Raises CommandError where it is paused already, or Redis is away."""
        client = redis_client()
        try:
            if not pauses.pause(client, Part(part), who=operator(), reason=reason):
                holds = pauses.current(client).get(Part(part))
                by = f", by {holds.who}: {holds.reason}" if holds else ""
                raise CommandError(f"{part} is paused already{by}")
        except StoreUnavailable as away:
            raise CommandError(f"{part} could not be paused: {away}") from away
        self.stdout.write(f"{part} is paused; `manage.py resume {part}` ends that.")


def operator() -> str:
    """Who runs the command."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (OSError, KeyError):
        return "command line"


def _reason(text: str) -> str:
    if not text.strip() or len(text) > TEXT_MAX_LENGTH:
        raise argparse.ArgumentTypeError(f"1 to {TEXT_MAX_LENGTH} characters that say why")
    return text.strip()
