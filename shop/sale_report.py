"""What a flash sale leaves: a page with its verdict, its plots and all that it takes to repeat it."""

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.template.loader import render_to_string
from django.utils.safestring import mark_safe

from shop import sale_plots
from shop.crowd import Bought
from shop.domain import Status
from shop.flash_sale import Sale
from shop.rush import Journal
from shop.sale_display import percentile
from shop.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Report:
    """A sale that is over. `settings`: the options it was held with; `duel`: what the two buyers were told.

    `verdicts`: on the two buyers, on the sale.
    """

    began: datetime
    settings: Mapping[str, Any]
    sale: Sale
    bought: Bought
    journal: Journal
    duel: Sequence[str]
    verdicts: Sequence[Verdict]

    @property
    def ended_early(self) -> bool:
        """Whether somebody closed the doors before all had come."""
        return len(self.journal.came) < len(self.sale.visits)

    def speed(self) -> str:
        """How fast it went, in one paragraph."""
        told = f"{self.bought.speed()}\nBusiest second: {self._busiest(self.journal.came):,} buyers came, "
        told += f"{self._busiest([at_s for at_s, _, _ in self.journal.ended]):,} orders ended"
        if self.ended_early:
            told = (
                f"Ended early, after {self.journal.came[-1]:.1f} s: {len(self.journal.came):,} of"
                f" {len(self.sale.visits):,} buyers came\n{told}"
            )
        return told

    @staticmethod
    def _busiest(moments_s: Sequence[float]) -> int:
        return max(Counter(int(at_s) for at_s in moments_s).values(), default=0)

    def write(self, folder: Path) -> Path:
        """Write the page into a new folder; returns it."""
        folder.mkdir(parents=True)
        page = folder / "report.html"
        page.write_text(render_to_string("sale_report.html", self._context()))
        return page

    def _context(self) -> dict[str, Any]:
        seconds = max(self.bought.seconds, 1.0)
        waits_s = self.journal.waits_s()
        wanted, sold = Counter[str](), Counter[str]()
        for purchase in self.bought.purchases:
            for line in purchase.wish.lines:
                wanted[line.sku] += line.quantity
                sold[line.sku] += line.quantity * (purchase.answers[0].status is Status.CONFIRMED)
        verdict = self.verdicts[1]
        wrong = {check.name: check.wrong for check in verdict.checks}
        plots = [
            ("Who came, and what became of the orders", sale_plots.rates(self.journal, seconds)),
            ("What was left, of how many units", sale_plots.stock(self.journal, self.sale, seconds)),
            ("How long buyers waited", sale_plots.waits(self.journal, seconds)),
            ("What was wanted, and what was sold", sale_plots.demand(self.sale, wanted, sold)),
        ]
        return {
            "report": self,
            "holds": all(verdict.holds for verdict in self.verdicts),
            "verdict": verdict,
            "wrong": [name for name, count in wrong.items() if count],
            "tiles": [
                *((name, f"{wrong[name]:,}") for name in ("oversold", "undersold", "lost", "doubled")),
                (f"units sold, of {verdict.on_sale:,}", f"{verdict.sold:,}"),
                ("orders in the busiest second", f"{self._busiest(self.journal.came):,}"),
                ("tap to result, p50", f"{percentile(waits_s, 0.50) * 1000:,.0f} ms" if waits_s else "-"),
                ("tap to result, p99", f"{percentile(waits_s, 0.99) * 1000:,.0f} ms" if waits_s else "-"),
            ],
            "buyers": f"{self.settings['buyers']:,}",
            "skus": f"{self.settings['skus']:,}",
            "states": [(name, *(f"{n:,}" for n in numbers)) for name, numbers in verdict.totals.items()],
            "habits": [(habit, f"{count:,}") for habit, count in self.journal.habits.most_common()],
            # Drawn by us from numbers and from SKUs that we made.
            "plots": [(title, mark_safe(svg)) for title, svg in plots],  # noqa: S308
            "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()},"
            f" Python {platform.python_version()}",
            "command": " ".join(
                ["python manage.py demo"]
                + [f"--{name.replace(' ', '-')} {value:g}" for name, value in self.settings.items()]
            ),
        }
