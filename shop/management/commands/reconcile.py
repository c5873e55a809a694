"""`manage.py reconcile [--repair | --after-restore]`"""

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from shop import continuity, reconciliation, stock
from shop.reconciliation import Difference
from shop.stores import StoreUnavailable, redis_client


class Command(BaseCommand):
    """Compare Redis with PostgreSQL."""

    help = (
        "Compare stock in Redis with PostgreSQL, and PostgreSQL with its own ledger, while orders flow. "
        "Exit code 1 where a difference is left."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """What to do about differences."""
        parser.add_argument("--repair", action="store_true", help="make Redis show what PostgreSQL has")
        parser.add_argument(
            "--reload",
            metavar="SKU",
            nargs="+",
            default=[],
            help="first publish what PostgreSQL has of these SKUs, whatever the cause",
        )

        parser.add_argument(
            "--after-restore",
            action="store_true",
            help="first let both tell one story again, after one of them or both came back from a backup",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Compare and tell."""
        try:
            if options["reload"]:
                stock.begin_epoch(redis_client())
                published = stock.refresh(redis_client(), options["reload"])
                if unknown := sorted(sku for sku, found in published.items() if found is None):
                    raise CommandError(f"no such SKU: {', '.join(unknown)}")
            recovered = self._recover() if options["after_restore"] else []
            report = reconciliation.reconcile(
                redis_client(), repair=options["repair"], ledger=True, progress=self._progress
            )
            report.differences += recovered
        except StoreUnavailable as away:
            raise CommandError(str(away)) from away
        for difference in report.differences:
            self.stdout.write(str(difference))
        self.stdout.write(report.summary())
        if not report.clean:
            sys.exit(1)

    def _recover(self) -> list[Difference]:
        done = continuity.follow_anew(redis_client())
        self.stdout.write(done.summary())
        return done.differences

    def _progress(self, done: int, total: int) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\r{done} of {total} SKUs", ending="")
            self.stderr.flush()
