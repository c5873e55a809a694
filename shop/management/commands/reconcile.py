"""`manage.py reconcile [--repair]`"""

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from shop import reconciliation, stock
from shop.stores import StoreUnavailable, redis_client


class Command(BaseCommand):
    """Compare Redis with PostgreSQL."""

    help = (
        "Compare stock in Redis with PostgreSQL, and PostgreSQL with its own ledger, while orders flow. "
        "Exit code 1 where a difference is left."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """What to do about differences."""
        parser.add_argument("--repair", action="store_true", help="mend differences whose cause is known")
        parser.add_argument(
            "--reload",
            metavar="SKU",
            nargs="+",
            default=[],
            help="first load these SKUs afresh from PostgreSQL, whatever the cause",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Compare and tell."""
        try:
            if options["reload"]:
                stock.unload(redis_client(), options["reload"])
                if unknown := stock.load(redis_client(), options["reload"]):
                    raise CommandError(f"no such SKU: {', '.join(sorted(unknown))}")
            report = reconciliation.reconcile(
                redis_client(), repair=options["repair"], ledger=True, progress=self._progress
            )
        except StoreUnavailable as away:
            raise CommandError(str(away)) from away
        for difference in report.differences:
            self.stdout.write(str(difference))
        self.stdout.write(report.summary())
        if not report.clean:
            sys.exit(1)

    def _progress(self, done: int, total: int) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\r{done} of {total} SKUs", ending="")
            self.stderr.flush()
