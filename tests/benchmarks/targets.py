"""What the results must show, and whether they do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from tests.benchmarks.results import Data

#: Of a curve of slices, so many at each end are compared.
END_SLICES: Final = 3


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bound on one figure. `figure` answers None where it was not measured."""

    name: str
    figure: Callable[[Data], float | None]
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    def verdict(self, data: Data) -> tuple[str, str, str, str]:
        """Name, bound, what was measured, and whether it was met."""
        bound = f"at least {self.at_least:,g}" if self.at_least is not None else f"at most {self.at_most:,g}"
        found = self.figure(data)
        if found is None:
            return self.name, f"{bound} {self.unit}".strip(), "not measured", ""
        is_met = found >= self.at_least if self.at_least is not None else found <= (self.at_most or 0.0)
        digits = 0 if abs(found) >= 1_000 else 1
        return (
            self.name,
            f"{bound} {self.unit}".strip(),
            f"{found:,.{digits}f} {self.unit}".strip(),
            "met" if is_met else "MISSED",
        )


def figures(data: Data, system: str, scenario: str, name: str = "orders_per_s") -> list[Any]:
    """A figure of each good round of a system."""
    return [
        one[name]
        for one in data["rounds"]
        if (one["system"], one["scenario"]) == (system, scenario) and not one["faults"]
    ]


def _median(data: Data, system: str, scenario: str, name: str = "orders_per_s") -> float | None:
    found = figures(data, system, scenario, name)
    return median(found) if found else None


def _ratio(system: str, other: str, scenario: str) -> Callable[[Data], float | None]:
    """How many times the other's orders/s."""

    def figure(data: Data) -> float | None:
        ours, theirs = _median(data, system, scenario), _median(data, other, scenario)
        return ours / theirs if ours and theirs else None

    return figure


def _of_rounds(scenario: str, name: str) -> Callable[[Data], float | None]:
    return lambda data: _median(data, "reserva", scenario, name)


def _latency(scenario: str, name: str) -> Callable[[Data], float | None]:
    def figure(data: Data) -> float | None:
        found = [
            one[name]
            for one in data["latency"]
            if (one["system"], one["scenario"]) == ("reserva", scenario) and not one["faults"]
        ]
        return median(found) if found else None

    return figure


def _loss_beside(curve: str, x: float) -> Callable[[Data], float | None]:
    """Per cent lost against the system that did not grow."""

    def figure(data: Data) -> float | None:
        points = [one for one in data["curves"].get(curve, ()) if one["x"] == x and one["beside"]]
        return _loss(points[-1]["orders_per_s"], points[-1]["beside"]) if points else None

    return figure


def _loss_from(curve: str, x: float) -> Callable[[Data], float | None]:
    """Per cent lost against the curve's first point."""

    def figure(data: Data) -> float | None:
        points: Sequence[dict[str, Any]] = data["curves"].get(curve, ())
        found = [one["orders_per_s"] for one in points if one["x"] == x]
        return _loss(found[-1], points[0]["orders_per_s"]) if found else None

    return figure


def _loss_at_the_top(data: Data) -> float | None:
    """Per cent lost while the backlog is largest against when it is smallest, in one drain."""
    rates = [one["orders_per_s"] for one in data["curves"].get("backlog", ())]
    if len(rates) < 2 * END_SLICES:
        return None
    return _loss(median(rates[:END_SLICES]), median(rates[-END_SLICES:]))


def _loss(rate: float, reference: float) -> float:
    return 100 * (1 - rate / reference)


TARGETS: Final = (
    Target(
        name="1,000 SKUs, 3 lines, against the textbook",
        figure=_ratio("reserva", "textbook", "spread"),
        unit="x",
        at_least=30,
    ),
    Target(
        name="1,000 SKUs, 3 lines, against Celery doing nothing",
        figure=_ratio("reserva", "celery no-op", "spread"),
        unit="x",
        at_least=9,
    ),
    Target(
        name="one hot SKU, against the textbook",
        figure=_ratio("reserva", "textbook", "hot"),
        unit="x",
        at_least=50,
    ),
    Target(
        name="with Flower, every order seen there, against the textbook without",
        figure=_ratio("reserva with Flower", "textbook", "spread"),
        unit="x",
        at_least=20,
    ),
    Target(
        name="CPU per order, all processes",
        figure=_of_rounds("spread", "total_us"),
        unit="us",
        at_most=500,
    ),
    Target(
        name="POST to readable result, 50/s, p50", figure=_latency("calm", "p50_ms"), unit="ms", at_most=6
    ),
    Target(
        name="POST to readable result, 50/s, p99", figure=_latency("calm", "p99_ms"), unit="ms", at_most=20
    ),
    Target(name="the same at 70 %, p99", figure=_latency("busy", "p99_ms"), unit="ms", at_most=100),
    Target(
        name="real orders", figure=_of_rounds("real orders", "lines_per_s"), unit="lines/s", at_least=15_000
    ),
    Target(
        name="slowdown with 1,000,000 stored orders",
        figure=_loss_beside("stored", 1_000_000),
        unit="%",
        at_most=10,
    ),
    Target(name="slowdown with 100,000 SKUs", figure=_loss_beside("skus", 100_000), unit="%", at_most=10),
    Target(name="slowdown with 200,000 waiting messages", figure=_loss_at_the_top, unit="%", at_most=10),
    Target(name="loss with a second worker", figure=_loss_from("workers", 2), unit="%", at_most=10),
    Target(name="loss with four workers", figure=_loss_from("workers", 4), unit="%", at_most=20),
    Target(
        name="loss with four workers, one hot SKU", figure=_loss_from("workers_hot", 4), unit="%", at_most=20
    ),
    Target(
        name="aim: 75 % of the arithmetic limit",
        figure=_of_rounds("spread", "orders_per_s"),
        unit="orders/s",
        at_least=6_200,
    ),
)


def judge(data: Data) -> list[tuple[str, str, str, str]]:
    """Each target's name, bound, figure and verdict."""
    return [target.verdict(data) for target in TARGETS]
