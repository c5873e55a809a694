"""`manage.py load_catalogue FILE`"""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from shop import catalogue
from shop.csv_table import BadFile
from shop.progress import Progress
from shop.stores import StoreUnavailable, redis_client


class Command(BaseCommand):
    """Put the products of a file on sale."""

    help = (
        "Load a CSV file (plain or gzipped) with the header sku,name,price,stock. New SKUs get their opening"
        " stock, known SKUs a new name and price; stock that exists is never overwritten. If a row is bad,"
        " nothing is loaded."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which file."""
        parser.add_argument("file", help="the file, or - for standard input")

    def handle(self, *args: Any, **options: Any) -> None:
        """Load it and tell."""
        try:
            items = catalogue.read(options["file"])
        except BadFile as bad:
            raise CommandError(f"{bad}\nNothing was loaded.") from bad
        try:
            with Progress("products", len(items)) as progress:
                stored = catalogue.store(items, reason="catalogue", progress=progress.show)
        except StoreUnavailable as away:
            raise CommandError(
                f"{away}\nA part of the file may be loaded. Load it again: that does the rest."
            ) from away
        self.stdout.write(
            f"{stored.added:,} products added with {stored.units:,} units, {stored.known:,} known "
            f"({stored.renamed:,} with a new name or price, stock untouched)"
        )
        try:
            with Progress("stock counters", len(items)) as progress:
                catalogue.publish_stock(redis_client(), items, progress.show)
        except StoreUnavailable as away:
            self.stderr.write(
                f"{away}\nThe products are on sale; a counter is written when its SKU is first ordered."
            )
