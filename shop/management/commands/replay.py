"""`manage.py replay FILE`"""

import argparse
import asyncio
import re
import sys
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from shop import catalogue, crowd, order_history, running
from shop.catalogue import Stored
from shop.client import AsyncClient, Refused, Unavailable
from shop.crowd import Bought, Wish
from shop.csv_table import BadFile
from shop.order_history import History
from shop.progress import Progress
from shop.stores import StoreUnavailable, redis_client
from shop.verdict import judge

INTERRUPTED = 130  # as shells report a SIGINT


class Command(BaseCommand):
    """Replay a real order history and account for every unit."""

    help = (
        "Place the sales of a real order history (the layout of UCI's Online Retail, CSV or .csv.gz) through"
        " the HTTP API, wait for the end of each, then compare what the API answered with PostgreSQL and"
        " Redis. Exit code 1 where anything is off. Idempotency keys derive from invoice numbers: a second"
        " run changes nothing, and a run that was stopped is continued by the same command."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """What to replay, how, and against what."""
        parser.add_argument(
            "file", help="columns InvoiceNo, StockCode, Description, Quantity, UnitPrice, CustomerID"
        )
        parser.add_argument("--orders", type=_positive, help="only the first so many (default: all)")
        parser.add_argument(
            "--concurrency", type=_positive, default=64, help="orders at a time (default: 64)"
        )
        parser.add_argument(
            "--stock",
            type=_percent,
            default="ample",
            metavar="ample|PERCENT|none",
            help="open SKUs that do not exist yet with all units that the file asks for (ample), or with so"
            " many per cent of them, or not at all; SKUs that exist keep their stock (default: ample)",
        )
        parser.add_argument(
            "--sku-prefix", default="", help="put before each stock code, for a replay of its own"
        )
        parser.add_argument(
            "--key-prefix",
            type=_key_prefix,
            help="put before the invoice number to make the idempotency key (default: replay-SKU_PREFIX)",
        )
        parser.add_argument("--url", help="the shop's address (default: that of the running `make up`)")
        parser.add_argument(
            "--api-key", help="a key with the scope `orders` (default: that of the running `make up`)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Replay and judge."""
        try:
            self._replay(**options)
        except KeyboardInterrupt:
            self.stderr.write("\nStopped. What was placed stays placed; the same command goes on from here.")
            sys.exit(INTERRUPTED)
        except BadFile as bad:
            raise CommandError(f"{bad}\nNothing was placed.") from bad
        except (Refused, Unavailable, StoreUnavailable) as error:
            raise CommandError(f"{error}\nThe same command goes on from here.") from error

    def _replay(
        self, *, file: str, stock: int | None, orders: int | None, concurrency: int, **options: Any
    ) -> None:
        client = _client(options["url"], options["api_key"], concurrency)
        sku_prefix = options["sku_prefix"]
        key_prefix = options["key_prefix"]
        if key_prefix is None:
            key_prefix = f"replay-{quote(sku_prefix, safe='')}"
        history = order_history.read(file, sku_prefix=sku_prefix)
        wishes = _wishes(history, key_prefix)[:orders]
        if not wishes:
            raise CommandError(f"{file} holds no sale")
        self.stdout.write(_told(history))
        if stock is not None:
            self.stdout.write(_told_stock(_put_on_sale(history, stock), stock))
        bought = asyncio.run(_buy(client, wishes, concurrency))
        known = sum(purchase.known for purchase in bought.purchases)
        self.stdout.write(bought.speed() + (f"; {known:,} had been placed before" if known else ""))
        verdict = judge(bought, redis_client())
        self.stdout.write(f"\n{verdict}")
        if not verdict.holds:
            sys.exit(1)


def _client(url: str | None, api_key: str | None, buyers: int) -> AsyncClient:
    """The API at this address, or where there is none, of the system that runs here."""
    if (not url or not api_key) and (found := running.find(settings.DATA_DIR)):
        url, api_key = url or found.url, api_key or found.api_key
    if not url or not api_key:
        raise CommandError(
            f"no running system was found in {settings.DATA_DIR}; start one with `make up`, or give --url and"
            " --api-key"
        )
    try:
        return AsyncClient(url, api_key, connections=buyers)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _wishes(history: History, key_prefix: str) -> list[Wish]:
    return [
        Wish(
            key=f"{key_prefix}{sale.invoice}",
            lines=sale.lines,
            customer=sale.customer,
            reference=sale.invoice,
        )
        for sale in history.sales
    ]


def _put_on_sale(history: History, percent: int) -> Stored:
    items = [replace(item, stock=item.stock * percent // 100) for item in history.goods]
    with Progress("products", len(items)) as progress:
        stored = catalogue.store(items, reason="replay", progress=progress.show)
        catalogue.publish_stock(redis_client(), items)
    return stored


async def _buy(client: AsyncClient, wishes: list[Wish], buyers: int) -> Bought:
    async with client:
        with Progress("orders", len(wishes)) as progress:
            return await crowd.buy(
                client,
                wishes,
                buyers=buyers,
                changed=lambda tally: progress.show(tally.ended.total(), str(tally)),
            )


def _told(history: History) -> str:
    lines = sum(len(sale.lines) for sale in history.sales)
    units = sum(item.stock for item in history.goods)
    passed_over = ", ".join(f"{number:,} {why}" for why, number in history.passed_over.items())
    return (
        f"{len(history.sales):,} sales with {lines:,} lines, {units:,} units of {len(history.goods):,} SKUs; "
        f"passed over: {passed_over or 'nothing'}"
    )


def _told_stock(stored: Stored, percent: int) -> str:
    return (
        f"{stored.added:,} SKUs put on sale with {percent} % of what the file asks for: {stored.units:,}"
        f" units; {stored.known:,} SKUs were there and keep their stock"
    )


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def _key_prefix(text: str) -> str:
    if not re.fullmatch(r"[\x21-\x7E]{0,200}", text):
        raise argparse.ArgumentTypeError("must be at most 200 visible ASCII characters")
    return text


def _percent(text: str) -> int | None:
    digits = text.removesuffix("%")
    if text not in {"ample", "none"} and not (
        digits.isascii() and digits.isdigit() and int(digits) <= 10_000
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is not `ample`, `none` or a whole number of per cent")
    return {"ample": 100, "none": None}[text] if text in {"ample", "none"} else int(digits)
