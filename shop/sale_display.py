"""A flash sale as it looks from the terminal: a display that moves on a terminal, plain lines elsewhere."""

import sys
from collections import Counter
from collections.abc import Sequence
from math import ceil
from types import TracebackType
from typing import Final, Self, TextIO

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shop.domain import Status
from shop.flash_sale import Sale
from shop.rush import Journal

BLOCKS: Final = "▁▂▃▄▅▆▇█"
SPARK_WIDTH: Final = 40
#: SKUs whose stock is shown, the most wanted first.
SKUS_SHOWN: Final = 6
#: What the figures of the moment look back on, in seconds.
LOOK_BACK_S: Final = 2.0
PLAIN_LINE_S: Final = 2.0


class Display:
    """Shows a sale that is going on, on standard error.

    with Display(sale, seconds=20.0) as display:
        display.show(journal)
    """

    def __init__(self, sale: Sale, *, seconds: float, stream: TextIO | None = None) -> None:
        self._sale = sale
        self._seconds = seconds
        self._console = Console(file=stream or sys.stderr, highlight=False)
        moves = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(console=self._console, auto_refresh=False) if moves else None
        self._next_line_s = PLAIN_LINE_S
        self._told = ""

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        if self._live:
            self._live.stop()

    def show(self, journal: Journal) -> None:
        """Show what has happened so far."""
        if self._live:
            self._live.update(self._picture(journal), refresh=True)
        elif journal.now_s >= self._next_line_s:
            self._next_line_s = journal.now_s + PLAIN_LINE_S
            self._console.print(self._line(journal), soft_wrap=True)

    def _line(self, journal: Journal) -> str:
        hot = self._sale.items[0]
        left = journal.stock[-1][1].get(hot.sku, hot.stock) if journal.stock else hot.stock
        states = Counter(status for _, status, _ in journal.ended)
        told = "".join(f"  {status} {states[status]:,}" for status in Status if states[status])
        came = f"{len(journal.came):,} of {len(self._sale.visits):,} buyers came"
        return f"{journal.now_s:5.1f} s  {came}{told}  hot item {left:,} of {hot.stock:,} left"

    def _picture(self, journal: Journal) -> RenderableType:
        now_s = journal.now_s
        is_over = len(journal.came) == len(self._sale.visits)
        clock = Table.grid(padding=(0, 1))
        clock.add_row(
            Text("Flash sale", style="bold"),
            ProgressBar(total=self._seconds, completed=min(now_s, self._seconds), width=48),
            Text("the last orders end" if is_over else f"{now_s:.1f} of {self._seconds:g} s"),
        )
        return Padding(Group(clock, "", self._flow(journal, now_s), "", self._stock(journal)), (1, 2))

    def _flow(self, journal: Journal, now_s: float) -> Table:
        """A row for each thing that happens to orders: how often, how often now, and since the opening."""
        ended = journal.ended
        moments = {
            status: [at_s for at_s, found, _ in ended if found is status]
            for status in (Status.CONFIRMED, Status.REJECTED, Status.FAILED)
        }
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=12)
        table.add_column(justify="right", min_width=8)
        table.add_column(justify="right", min_width=8)
        table.add_column(no_wrap=True)
        rows = [
            ("came", journal.came, "cyan"),
            ("confirmed", moments[Status.CONFIRMED], "green"),
            ("sold out", moments[Status.REJECTED], "yellow"),
            ("cancelled", journal.cancelled, "magenta"),
            *([("failed", moments[Status.FAILED], "red")] if moments[Status.FAILED] else []),
        ]
        for name, seconds, style in rows:
            table.add_row(
                name,
                f"{len(seconds):,}",
                f"{sum(at_s > now_s - 1 for at_s in seconds):,}/s",
                Text(sparkline(seconds, max(now_s, self._seconds), SPARK_WIDTH), style=style),
            )
        waits_s = journal.waits_s(since_s=now_s - LOOK_BACK_S)
        table.add_row("waiting", f"{len(journal.came) - len(ended):,}", "", _told_waits(waits_s))
        return table

    def _stock(self, journal: Journal) -> Table:
        left = journal.stock[-1][1] if journal.stock else {}
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=12, no_wrap=True)
        table.add_column(justify="right", min_width=18)
        table.add_column()
        for item in self._sale.items[:SKUS_SHOWN]:
            units = left.get(item.sku, item.stock)
            bar = Bar(max(item.stock, 1), 0, units, width=SPARK_WIDTH, color="blue" if units else "default")
            told = f"{units:,} of {item.stock:,} left" if units else Text("sold out", style="yellow")
            table.add_row(item.sku, told, bar)
        watched = [left[item.sku] for item in self._sale.items if item.sku in left]
        table.add_row("", "", f"{watched.count(0)} of {len(watched)} SKUs sold out")
        return table


def _told_waits(waits_s: Sequence[float]) -> str:
    if not waits_s:
        return ""
    p50_ms, p99_ms = (percentile(waits_s, share) * 1000 for share in (0.50, 0.99))
    return f"tap to result, last {LOOK_BACK_S:g} s: p50 {p50_ms:,.0f} ms, p99 {p99_ms:,.0f} ms"


def sparkline(moments_s: Sequence[float], until_s: float, width: int) -> str:
    """How often something happened from 0 to `until_s`, as `width` characters, the highest for the most."""
    found = Counter(min(width - 1, int(max(0.0, at_s) / until_s * width)) for at_s in moments_s)
    most = max(found.values(), default=0)
    return "".join(
        BLOCKS[ceil(found[column] / most * len(BLOCKS)) - 1] if found[column] else " "
        for column in range(width)
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values, of which there must be some."""
    return values[max(0, ceil(share * len(values)) - 1)]
