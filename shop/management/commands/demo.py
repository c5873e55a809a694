"""`manage.py demo`, as `make demo` calls it."""

import argparse
import asyncio
import secrets
import subprocess
import sys
from random import Random
from typing import Any, Final

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from shop import catalogue, crowd, flash_sale, running
from shop.client import Client, Refused, Unavailable
from shop.crowd import Bought
from shop.flash_sale import COPIES, Sale
from shop.progress import Progress
from shop.running import Running
from shop.stores import StoreUnavailable, redis_client
from shop.verdict import judge
from workers.processes import Child, Part, PartFailedError

#: The first start of a system makes its databases.
READY_WITHIN_S: Final = 300.0
#: A clean stop lets the workers finish what they are at.
STOP_WITHIN_S: Final = 60.0


class Command(BaseCommand):
    """A flash sale and its verdict."""

    help = (
        "Hold a flash sale with many buyers and few units against the system that runs with this DATA_DIR, or"
        " against one that is started for it, and account for every unit afterwards. Exit code 1 where"
        " anything was sold twice, lost or kept back."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """How large."""
        parser.add_argument("--orders", type=int, default=2000, help="how many in all (default: 2000)")
        parser.add_argument("--buyers", type=int, default=200, help="how many at a time (default: 200)")

    def handle(self, *args: Any, orders: int, buyers: int, **options: Any) -> None:
        """Find or start the system, then sell."""
        if orders < 1 or buyers < 1:
            raise CommandError("a sale needs at least one order and one buyer")
        found = running.find(settings.DATA_DIR)
        try:
            is_right = (
                self._sell(found, orders, buyers) if found else self._sell_in_new_system(orders, buyers)
            )
        except (Refused, Unavailable, StoreUnavailable, PartFailedError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("stopped", returncode=130) from None
        if not is_right:
            sys.exit(1)

    def _sell_in_new_system(self, orders: int, buyers: int) -> bool:
        """Sell in a process of its own, because this one has read its settings before there was a system."""
        log = settings.DATA_DIR / "logs" / "demo-up.log"
        self.stdout.write(
            f"No system runs in {settings.DATA_DIR}. Starting one; it tells its story in {log}."
        )
        self.stdout.flush()
        system = Child(
            Part(
                name="up",
                argv=[sys.executable, "manage.py", "up"],
                log=log,
                cwd=settings.BASE_DIR,
                is_ready=lambda: running.find(settings.DATA_DIR) is not None,
                ready_within_s=READY_WITHIN_S,
                grace_s=STOP_WITHIN_S,
            )
        )
        try:
            system.wait_ready()
            sale = [sys.executable, "manage.py", "demo", f"--orders={orders}", f"--buyers={buyers}"]
            return subprocess.run(sale, cwd=settings.BASE_DIR, check=False).returncode == 0  # noqa: S603
        finally:
            self.stdout.write("Stopping the system.")
            self.stdout.flush()
            system.stop()

    def _sell(self, shop: Running, orders: int, buyers: int) -> bool:
        run = secrets.token_hex(3)
        duel = self._hold(
            shop, flash_sale.two_buyers(run), "Ten units, and two buyers who ask for eight each", 2
        )
        for purchase in duel.purchases:
            self.stdout.write(f"  {purchase.wish.customer}: {_told(purchase)}")
        sale = flash_sale.flash_sale(run, orders, Random(run))
        nervous = sum(wish.copies > 1 for wish in sale.wishes)
        units = sum(item.stock for item in sale.items)
        title = (
            f"\nFlash sale: {units:,} units of {len(sale.items)} SKUs, {orders:,} orders by {buyers} buyers,"
            f" {nervous:,} orders sent {COPIES} times at once"
        )
        bought = self._hold(shop, sale, title, buyers)
        self.stdout.write(bought.speed())
        verdicts = [judge(duel, redis_client()), judge(bought, redis_client())]
        self.stdout.write(f"\n{verdicts[1]}")
        if not verdicts[0].holds:
            self.stdout.write(f"\nAnd of the two buyers:\n{verdicts[0]}")
        return all(verdict.holds for verdict in verdicts)

    def _hold(self, shop: Running, sale: Sale, title: str, buyers: int) -> Bought:
        catalogue.store(sale.items, reason="demo")
        catalogue.load_counters(redis_client(), sale.items)
        self.stdout.write(title)
        self.stdout.flush()
        return asyncio.run(_buy(shop, sale, buyers))


async def _buy(shop: Running, sale: Sale, buyers: int) -> Bought:
    async with Client(shop.url, shop.api_key, connections=COPIES * buyers) as client:
        with Progress("orders", len(sale.wishes)) as progress:
            return await crowd.buy(
                client,
                sale.wishes,
                buyers=buyers,
                changed=lambda tally: progress.show(tally.ended.total(), str(tally)),
            )


def _told(purchase: crowd.Purchase) -> str:
    answer = purchase.answers[0]
    short = answer.reason.lines if answer.reason is not msgspec.UNSET else ()
    why = "".join(f", asked for {line.requested} when {line.available} were left" for line in short)
    return f"{answer.status}{why}"
