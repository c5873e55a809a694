"""Results as pictures."""

import os
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

# matplotlib keeps a list of fonts; not in the user's home.
os.environ.setdefault("MPLCONFIGDIR", str(Path(__file__).parents[2] / ".bench" / "matplotlib"))

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.benchmarks.report import COMPONENTS, CURVES
from tests.benchmarks.results import Data
from tests.benchmarks.targets import figures


def draw(data: Data, out: Path) -> Iterator[Path]:
    """Draw what was measured; the files."""
    if data["rounds"]:
        yield _side_by_side(data, out / "side-by-side.svg")
    if data["curves"]:
        yield _growth(data, out / "growth.svg")


def _side_by_side(data: Data, path: Path) -> Path:
    kinds = list(dict.fromkeys((one["system"], one["scenario"]) for one in data["rounds"]))
    kinds = [kind for kind in reversed(kinds) if figures(data, *kind)]
    names = [f"{system}, {scenario}" for system, scenario in kinds]
    figure, (rates, costs) = plt.subplots(1, 2, figsize=(11, 1.2 + 0.45 * len(kinds)), sharey=True)
    found = [figures(data, *kind) for kind in kinds]
    middles = [median(one) for one in found]
    spread = [
        [middle - min(one) for middle, one in zip(middles, found, strict=True)],
        [max(one) - middle for middle, one in zip(middles, found, strict=True)],
    ]
    bars = rates.barh(names, middles, xerr=spread, color="tab:blue")
    rates.bar_label(bars, [f" {middle:,.0f}" for middle in middles])
    rates.set(xscale="log", xlabel="orders/s, end to end (median, smallest, largest)")
    rates.set_xlim(right=4 * max(middles))
    left = [0.0] * len(kinds)
    for name in COMPONENTS:
        shares = [_component(data, kind, name) for kind in kinds]
        costs.barh(names, shares, left=left, label=name)
        left = [before + share for before, share in zip(left, shares, strict=True)]
    costs.set(xlabel="microseconds of CPU per order")
    costs.legend()
    return save(figure, path)


def _component(data: Data, kind: tuple[str, str], name: str) -> float:
    return median(float(cost.get(name, 0.0)) for cost in figures(data, *kind, "cpu_us"))


def _growth(data: Data, path: Path) -> Path:
    columns = 3
    rows = -(-len(data["curves"]) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(13, 3.4 * rows), squeeze=False)
    for at, axis in enumerate(axes.flat):
        if at >= len(data["curves"]):
            axis.axis("off")
    for axis, (name, points) in zip(axes.flat, data["curves"].items(), strict=False):
        _curve(axis, name, points)
    return save(figure, path)


def _curve(axis: Axes, name: str, points: list[dict[str, Any]]) -> None:
    title, x = CURVES[name]
    xs = [one["x"] for one in points]
    # An order of a thousand lines is no single thing to compare with an order of one.
    unit, size = ("line", xs) if name == "lines" else ("order", [1.0] * len(xs))
    rates = [one["orders_per_s"] * lines for one, lines in zip(points, size, strict=True)]
    costs = [one["cpu_us"] / lines for one, lines in zip(points, size, strict=True)]
    handles = axis.plot(xs, rates, "o-", color="tab:blue", label=f"{unit}s/s")
    beside = [one["beside"] or 0.0 for one in points]
    if any(beside):
        handles += axis.plot(xs, beside, ":", color="tab:gray", label="orders/s of one that did not grow")
    axis.set(title=title, xlabel=x, ylabel=f"{unit}s/s")
    right = axis.twinx()
    handles += right.plot(xs, costs, "s--", color="tab:red", label=f"us of CPU per {unit}")
    right.set(ylabel=f"us of CPU per {unit}")
    if xs[0] and max(xs) > 50 * min(xs):
        axis.set_xscale("log")
    if max(xs) < 10:
        axis.set_xticks(xs)
    if name == "lines":
        axis.set(yscale="log")
        right.set(yscale="log")
    else:
        axis.set(ylim=(0, 1.15 * max(rates + beside)))
        right.set(ylim=(0, 1.15 * max(costs)))
    right.legend(handles=handles, fontsize="small", loc="lower center")


def save(figure: Any, path: Path) -> Path:
    """Write a figure as it is the next time, too, and forget it."""
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path
