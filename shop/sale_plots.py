"""A flash sale in pictures, each an SVG to stand in a page."""

import io
import os
import re
from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings

# matplotlib keeps a list of fonts; not in the user's home.
os.environ.setdefault("MPLCONFIGDIR", str(settings.DATA_DIR / "demo" / ".matplotlib"))

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from shop.domain import Status
from shop.flash_sale import Sale
from shop.rush import Journal
from shop.sale_display import percentile

WIDTH_INCHES: Final = 9.0
#: Bins of the plots over time.
BINS: Final = 80
#: SKUs that have a colour of their own in the plot of stock.
SKUS_NAMED: Final = 5
#: SKUs in the plot by SKU; more could not be told apart.
SKUS_SHOWN: Final = 40

CAME, CONFIRMED, REFUSED, CANCELLED = "#4c78a8", "#2f9e5b", "#e0a030", "#b279a2"
_SIZE: Final = re.compile(r"<svg(?= )[^>]*?(?= viewBox)")
_STYLE: Final[dict[Any, Any]] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": "#e4e7eb",
    "legend.columnspacing": 1.2,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "svg.fonttype": "none",
}


def rates(journal: Journal, seconds: float) -> str:
    """Who came, and what became of the orders, per second."""
    edges, width = _bins(seconds)
    with mpl.rc_context(_STYLE):
        figure, axis = _figure(3.2)
        middle = [edge + width / 2 for edge in edges]
        came = _per_second(journal.came, seconds)
        axis.fill_between(middle, came, step="mid", color=CAME, alpha=0.25, linewidth=0)
        axis.step(middle, came, where="mid", color=CAME, linewidth=1, label="buyers who came")
        for name, status, colour in (
            ("confirmed", Status.CONFIRMED, CONFIRMED),
            ("sold out", Status.REJECTED, REFUSED),
        ):
            moments = [at_s for at_s, found, _ in journal.ended if found is status]
            axis.plot(middle, _per_second(moments, seconds), color=colour, label=name)
        if journal.cancelled:
            axis.plot(
                middle, _per_second(journal.cancelled, seconds), ":", color=CANCELLED, label="cancelled later"
            )
        axis.set(ylabel="per second", ylim=(0, None))
        return _over_time(figure, axis, seconds)


def waits(journal: Journal, seconds: float) -> str:
    """How long each buyer waited, and the percentiles of the moment."""
    with mpl.rc_context(_STYLE):
        figure, axis = _figure(3.2)
        known = [(at_s, wait * 1000) for at_s, _, wait in journal.ended if wait is not None]
        axis.plot(
            *zip(*known, strict=True),
            ".",
            color=CAME,
            alpha=0.5,
            markersize=4,
            markeredgewidth=0,
            rasterized=True,
            label="one buyer, from tap to result",
        )
        accepted = [(at_s, wait * 1000) for at_s, wait in journal.accepted]
        for name, points, share, line in (
            ("p99 to result", known, 0.99, "-"),
            ("p50 to result", known, 0.50, "-"),
            ("p50 to 202", accepted, 0.50, "--"),
        ):
            colour = {"p99 to result": "#c44e52", "p50 to result": CONFIRMED}.get(name, "#555555")
            axis.plot(*_percentiles(points, share, seconds), line, color=colour, label=name)
        axis.set(ylabel="milliseconds", yscale="log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        return _over_time(figure, axis, seconds)


def stock(journal: Journal, sale: Sale, seconds: float) -> str:
    """What was left of each SKU that was watched, as a share of what was put on sale."""
    watched = [item for item in sale.items if item.sku in journal.stock[-1][1]]
    with mpl.rc_context(_STYLE):
        figure, axis = _figure(3.2)
        moments = [at_s for at_s, _ in journal.stock]
        for rank, item in reversed(list(enumerate(watched))):
            left = [100 * found.get(item.sku, item.stock) / max(item.stock, 1) for _, found in journal.stock]
            if rank < SKUS_NAMED:
                label = f"{_short(item.sku)} ({item.stock:,})"
                axis.plot(moments, left, color=f"C{rank}", linewidth=2.5 if rank == 0 else 1.5, label=label)
            else:
                axis.plot(moments, left, color="#c9ced6", linewidth=0.7)
        axis.set(ylabel="% of units left", ylim=(0, 103))
        return _over_time(figure, axis, seconds, last_first=True)


def demand(sale: Sale, wanted: dict[str, int], sold: dict[str, int]) -> str:
    """Units wanted, put on sale and sold, by SKU."""
    items = sale.items[:SKUS_SHOWN]
    with mpl.rc_context(_STYLE):
        figure, axis = _figure(3.2)
        ranks = list(range(1, len(items) + 1))
        axis.bar(ranks, [wanted.get(item.sku, 0) for item in items], color="#d9dee5", label="wanted")
        axis.bar(ranks, [sold.get(item.sku, 0) for item in items], color=CONFIRMED, width=0.5, label="sold")
        axis.hlines(
            [item.stock for item in items],
            [rank - 0.45 for rank in ranks],
            [rank + 0.45 for rank in ranks],
            colors="#222222",
            linewidth=1.5,
            label="put on sale",
        )
        axis.set(ylabel="units", xlabel="SKUs, the most wanted first", xlim=(0.3, len(items) + 0.7))
        axis.set_yscale("symlog", linthresh=10)
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.grid(visible=False, axis="x")
        _legend(axis)
        return _svg(figure)


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches))
    return figure, figure.subplots()


def _bins(seconds: float) -> tuple[list[float], float]:
    width = seconds / BINS
    return [at * width for at in range(BINS)], width


def _bin_of(at_s: float, seconds: float) -> int:
    return min(BINS - 1, int(max(0.0, at_s) / seconds * BINS))


def _per_second(moments_s: Sequence[float], seconds: float) -> list[float]:
    found = [0] * BINS
    for at_s in moments_s:
        found[_bin_of(at_s, seconds)] += 1
    return [count * BINS / seconds for count in found]


def _percentiles(
    points: Sequence[tuple[float, float]], share: float, seconds: float
) -> tuple[list[float], list[float]]:
    """Where there are any, of each second bin."""
    found: list[list[float]] = [[] for _ in range(BINS)]
    for at_s, value in points:
        found[_bin_of(at_s, seconds)].append(value)
    width = seconds / BINS
    kept = [
        ((at + 0.5) * width, percentile(sorted(values), share)) for at, values in enumerate(found) if values
    ]
    return [at for at, _ in kept], [value for _, value in kept]


def _over_time(figure: Figure, axis: Axes, seconds: float, *, last_first: bool = False) -> str:
    """`last_first`: whether what was drawn last stands first in the legend."""
    axis.set(xlabel="seconds after the opening", xlim=(0, seconds))
    _legend(axis, step=-1 if last_first else 1)
    return _svg(figure)


def _legend(axis: Axes, step: int = 1) -> None:
    """Above the plot, where it hides nothing. `step`: -1 turns the order round."""
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::step], labels[::step], loc="lower left", bbox_to_anchor=(0, 1), ncols=len(labels))


def _short(sku: str) -> str:
    """Without the part that makes it new."""
    return sku.rpartition("-")[0]


def _svg(figure: Figure) -> str:
    """The picture alone, as wide as the page."""
    figure.tight_layout()
    text = io.StringIO()
    figure.savefig(text, format="svg", dpi=160, metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    return _SIZE.sub("<svg", svg[svg.index("<svg") :], count=1)
