"""`manage.py demo`, as `make demo` calls it."""

import argparse
import asyncio
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from random import Random
from time import monotonic, sleep
from types import FrameType
from typing import Any, Final

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from shop import catalogue, crowd, flash_sale, running
from shop.client import AsyncClient, Refused, Unavailable
from shop.crowd import Bought, Purchase
from shop.flash_sale import Sale
from shop.running import Running
from shop.rush import Journal, rush
from shop.stores import StoreUnavailable, redis_client
from shop.verdict import Verdict, judge
from workers.processes import Child, Part, PartFailedError

try:
    from shop.sale_display import Display
    from shop.sale_report import Report
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"The demo draws with packages that are not installed here ({missing.name}): `make setup` installs them."
    ) from None

#: The first start of a system makes its databases.
READY_WITHIN_S: Final = 300.0
#: A clean stop lets the workers finish what they are at.
STOP_WITHIN_S: Final = 60.0
#: Where a worker dies between PostgreSQL and Redis, a sweep brings the units: every two seconds.
AT_REST_WITHIN_S: Final = 10.0
#: What may seem wrong for as long as a cancellation is under way: books, then Redis's counters, states and locks.
UNDER_WAY: Final = {"lost", "miscounted", "left behind"}
LOOK_AGAIN_S: Final = 0.2
#: Requests at the same time; further ones wait, and their buyers' time runs.
CONNECTIONS: Final = 400
COUNT_MAX: Final = 1_000_000
SECONDS_MAX: Final = 86_400

EXAMPLES: Final = """\
examples:
  make demo                                          3,000 buyers in 20 seconds
  make demo ARGS="--buyers 500 --seconds 5"          a small one
  make demo ARGS="--seed 7 --hot-stock 10"           hardly anything of what all want
  DATA_DIR=/tmp/try make demo                        beside the system that runs here

Ctrl-C closes the doors: nobody else comes, orders that were placed end, and the verdict is
on those.
"""


class Command(BaseCommand):
    """A flash sale and its verdict."""

    help = (
        "Hold a flash sale with many buyers and few units against the system that runs with this\n"
        "DATA_DIR, or against one that is started for it; account for every unit afterwards; and\n"
        "leave a report with plots in DATA_DIR. Exit code 1 where anything was sold twice, lost or\n"
        "kept back."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """With examples that keep their lines."""
        parser = super().create_parser(prog_name, subcommand, epilog=EXAMPLES, **kwargs)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        return parser

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """How large."""
        parser.add_argument(
            "--buyers", type=_count, default=3000, help="how many come, each to order once (default: 3000)"
        )
        parser.add_argument(
            "--seconds",
            type=_seconds,
            default=20.0,
            help="from the opening to the last of them (default: 20)",
        )
        parser.add_argument(
            "--skus", type=_count, default=40, help="on sale; demand falls by Zipf's law (default: 40)"
        )
        parser.add_argument(
            "--hot-stock", type=_count, help="units of the SKU that all want (default: a fifth of the buyers)"
        )
        parser.add_argument(
            "--seed", type=int, help="who comes when, wants what and does what (default: another each time)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Find or start the system, then sell."""
        wanted = {name: options[name] for name in ("buyers", "seconds", "skus", "hot_stock", "seed")}
        if wanted["seed"] is None:
            wanted["seed"] = secrets.randbelow(1_000_000)
        found = running.find(settings.DATA_DIR)
        try:
            is_right = self._sell(found, **wanted) if found else self._sell_in_new_system(wanted)
        except (Refused, Unavailable, StoreUnavailable, PartFailedError) as error:
            raise CommandError(str(error)) from error
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise CommandError("stopped before there was a verdict", returncode=130) from None
        if not is_right:
            sys.exit(1)

    def _sell_in_new_system(self, wanted: dict[str, Any]) -> bool:
        """Sell in a process of its own, because this one has read its settings before there was a system."""
        log = settings.DATA_DIR / "logs" / "demo-up.log"
        self._say(f"No system runs in {settings.DATA_DIR}. Starting one; it tells its story in {log}.")
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
            options = [
                f"--{name.replace('_', '-')}={value}" for name, value in wanted.items() if value is not None
            ]
            return _run([sys.executable, "manage.py", "demo", *options]) == 0
        finally:
            self._say("Stopping the system; `make up` runs one that stays.")
            system.stop()

    def _sell(
        self, shop: Running, *, buyers: int, seconds: float, skus: int, hot_stock: int | None, seed: int
    ) -> bool:
        run = secrets.token_hex(3)
        began = datetime.now().astimezone()
        self._say(
            f"Watch it on {shop.url}/live as {shop.staff_user}, password {shop.staff_password}\n\n"
            "Ten units, and two buyers who ask for eight each"
        )
        duel, _ = self._hold(shop, flash_sale.two_buyers(run), 0.0)
        for purchase in duel.purchases:
            self._say(f"  {purchase.wish.customer}: {_told(purchase)}")
        sale = flash_sale.flash_sale(
            run, chance=Random(seed), buyers=buyers, seconds=seconds, skus=skus, hot_stock=hot_stock
        )
        units = sum(item.stock for item in sale.items)
        self._say(
            f"\nFlash sale: {units:,} units of {skus:,} SKUs, {buyers:,} buyers in {seconds:g} s, seed {seed}"
        )
        bought, journal = self._hold(shop, sale, seconds)
        if not bought.purchases:
            raise CommandError("stopped before anybody came; there is nothing to judge", returncode=130)
        verdicts = [judged_at_rest(shop, duel), judged_at_rest(shop, bought)]
        report = Report(
            began=began,
            settings={
                "buyers": buyers,
                "seconds": seconds,
                "skus": skus,
                "hot stock": sale.items[0].stock,
                "seed": seed,
            },
            sale=sale,
            bought=bought,
            journal=journal,
            duel=[f"{purchase.wish.customer}: {_told(purchase)}" for purchase in duel.purchases],
            verdicts=verdicts,
        )
        self._say(report.speed())
        self._say(f"\n{verdicts[1]}")
        if not verdicts[0].holds:
            self._say(f"\nAnd of the two buyers:\n{verdicts[0]}")
        page = report.write(settings.DATA_DIR / "demo" / f"{began:%Y-%m-%d-%H%M%S}-{run}")
        self._say(f"\nReport with plots: {page.as_uri()}")
        return all(verdict.holds for verdict in verdicts)

    def _hold(self, shop: Running, sale: Sale, seconds: float) -> tuple[Bought, Journal]:
        catalogue.store(sale.items, reason="demo")
        catalogue.publish_stock(redis_client(), sale.items)
        return asyncio.run(_rush(shop, sale, seconds))

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


async def _rush(shop: Running, sale: Sale, seconds: float) -> tuple[Bought, Journal]:
    """Hold a sale. The first Ctrl-C closes its doors, the second one raises `CancelledError`."""
    closing = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None

    def stop() -> None:
        if closing.is_set():
            task.cancel()
        closing.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        async with AsyncClient(shop.url, shop.api_key, connections=CONNECTIONS) as client:
            with Display(sale, seconds=seconds) as display:
                return await rush(
                    client,
                    sale.visits,
                    search=sale.items[0].sku.rpartition("-")[2],
                    closing=closing,
                    told=display.show,
                )
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def judged_at_rest(shop: Running, bought: Bought) -> Verdict:
    """The verdict, once cancellations are carried out in both stores: that is a moment after their buyers hear of them."""
    give_up_at = monotonic() + AT_REST_WITHIN_S
    while True:
        verdict = judge(bought, redis_client())
        wrong = {check.name for check in verdict.checks if check.wrong}
        if not wrong or not wrong <= UNDER_WAY or monotonic() > give_up_at:
            return verdict
        sleep(LOOK_AGAIN_S)
        bought = replace(bought, available=asyncio.run(_available(shop, sorted(bought.available))))


async def _available(shop: Running, skus: Sequence[str]) -> dict[str, int]:
    async with AsyncClient(shop.url, shop.api_key) as client:
        return await crowd.available(client, skus, askers=32)


def _run(command: Sequence[str]) -> int:
    """Run the sale; its exit code. Ctrl-C reaches it from the terminal by itself, SIGTERM is handed on."""

    def hand_on(number: int, _: FrameType | None) -> None:
        if number == signal.SIGTERM:
            process.send_signal(signal.SIGINT)

    with subprocess.Popen(command, cwd=settings.BASE_DIR) as process:  # noqa: S603 - our own command
        before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _told(purchase: Purchase) -> str:
    answer = purchase.answers[0]
    short = answer.reason.lines if answer.reason is not msgspec.UNSET else ()
    why = "".join(f", asked for {line.requested} when {line.available} were left" for line in short)
    return f"{answer.status}{why}"


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= COUNT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {COUNT_MAX:,}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {SECONDS_MAX:,}")
    return seconds
