"""Results as text: Markdown tables for people and for the project's pages."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, Final

from tests.benchmarks.results import Data
from tests.benchmarks.targets import figures, judge

COMPONENTS: Final = ("web", "worker", "redis", "postgres")

#: Of each curve: its title, what x counts, and what its orders are compared with.
CURVES: Final = {
    "stored": ("Orders stored in PostgreSQL", "orders stored"),
    "skus": ("SKUs, ordered from all over", "SKUs"),
    "lines": ("Lines per order", "lines"),
    "boards": ("Open live boards", "boards"),
    "pollers": ("Clients that wait in a long poll", "clients"),
    "posting": ("Accepting while nobody works", "waiting after"),
    "backlog": ("Draining a backlog, no order coming in", "waiting before"),
    "workers": ("Worker processes", "workers"),
    "workers_hot": ("Worker processes, one hot SKU", "workers"),
    "web": ("Web processes", "processes"),
}


def render(data: Data) -> str:
    """The whole report."""
    sections = [
        _head(data),
        _rounds(data),
        _latency(data),
        _overload(data),
        _memory(data),
        *(_curve(name, points) for name, points in data["curves"].items()),
        _targets(data),
        listed("Notes", data["notes"]),
        listed("WRONG, and so no result", data["wrong"]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(data: Data) -> str:
    about = data["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    return (
        f"# Benchmark, {data['form']} form\n\n"
        f"{about['cores']} cores of {about['cpu']}, {about['memory_mib']:,} MiB, {about['system']}; everything on this "
        f"machine, the load generator (our own: one process, epoll, 128 connections) too.\n{versions}"
    )


def _rounds(data: Data) -> str:
    kinds = list(dict.fromkeys((one["system"], one["scenario"]) for one in data["rounds"]))
    rows = []
    for system, scenario in kinds:
        rates = figures(data, system, scenario)
        if not rates:
            rows.append([system, scenario, "WRONG"])
            continue
        good = [
            one
            for one in data["rounds"]
            if (one["system"], one["scenario"]) == (system, scenario) and not one["faults"]
        ]
        costs = [median(one["cpu_us"].get(name, 0.0) for one in good) for name in COMPONENTS]
        total = median(one["total_us"] for one in good)
        flower = median(one["cpu_us"].get("flower", 0.0) for one in good)
        rows.append(
            [
                system,
                scenario,
                f"{median(rates):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                str(len(rates)),
                f"{median(one['lines_per_s'] for one in good):,.0f}",
                *(f"{us:,.0f}" for us in (total, *costs, max(0.0, total - sum(costs)), flower)),
                f"{median(one['load_us'] for one in good):,.0f}",
            ]
        )
    head = [
        *("system", "traffic", "orders/s", "from ... to", "rounds", "lines/s"),
        *("us CPU per order", *COMPONENTS, "others", "Flower", "load generator"),
    ]
    return section("Side by side", "medians; total without Flower and the load generator", head, rows)


def _latency(data: Data) -> str:
    found: dict[tuple[str, str], list[Data]] = {}
    for one in data["latency"]:
        found.setdefault((one["system"], one["scenario"]), []).append(one)
    head = [
        *(
            "system",
            "arrivals",
            "per second",
            "rounds",
            "followed",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "from ... to",
        ),
        *("generator late p99", "us CPU per order", *COMPONENTS, "load generator", "cores busy"),
    ]
    rows = [
        [*names, *_steady([one for one in rounds if not one["faults"]])] for names, rounds in found.items()
    ]
    return section(
        "POST to readable result", "medians; open loop, counted from when each order was due", head, rows
    )


def _steady(rounds: Sequence[Data]) -> list[str]:
    """Medians of rounds of steady arrivals; a round that was wrong is no result."""
    if not rounds:
        return ["no round without a fault"]
    per_second = rounds[0]["per_second"]
    costs = [median(one["cpu_us"].get(name, 0.0) for one in rounds) for name in COMPONENTS]
    total = median(sum(us for name, us in one["cpu_us"].items() if name != "flower") for one in rounds)
    load = median(one["load_us"] for one in rounds)
    p50, p95, p99, late = (
        f"{median(one[name] for one in rounds):,.1f}"
        for name in ("p50_ms", "p95_ms", "p99_ms", "late_p99_ms")
    )
    p99s = [one["p99_ms"] for one in rounds]
    return [
        *(
            f"{per_second:,.0f}",
            str(len(rounds)),
            f"{sum(one['followed'] for one in rounds):,}",
            p50,
            p95,
            p99,
        ),
        *(f"{min(p99s):,.1f} to {max(p99s):,.1f}", late),
        *(f"{us:,.0f}" for us in (total, *costs, load)),
        f"{(total + load) * per_second / 1e6:.2f}",
    ]


def _overload(data: Data) -> str:
    rows = [
        [
            one["limit"],
            f"{one['times']} x",
            *(f"{one[name]:,.0f}" for name in ("offered_per_s", "served_per_s", "refused")),
            *(f"{one[name]:,.1f}" for name in ("refusal_p50_ms", "refusal_p99_ms")),
            f"{one['recovery_s']:.2f}",
            f"{one['web_cpu_us']:.0f}",
            f"{one['cores']:.2f}",
            f"{one['served_per_s'] / one['cores']:,.0f}",
        ]
        for one in data["overload"]
    ]
    head = ["limit", "load", "offered/s", "served/s", "refused", "refusal p50 ms", "p99 ms", "recovered in s"]
    head += ["us of web per request", "cores of the system", "served/s per core"]
    return section("Overload", "recovered: a new order was accepted and had ended", head, rows)


def _memory(data: Data) -> str:
    rows = [
        [
            system,
            *(f"{by_component.get(name, 0.0):,.0f}" for name in COMPONENTS),
            f"{sum(by_component.values()):,.0f}",
        ]
        for system, by_component in data["memory_mib"].items()
    ]
    return section(
        "Memory, MiB", "after the rounds; shared pages once (PSS)", ["system", *COMPONENTS, "all"], rows
    )


def _curve(name: str, points: Sequence[dict[str, Any]]) -> str:
    title, x = CURVES[name]
    with_reference = any(one["beside"] for one in points)
    rows = [
        [
            f"{one['x']:,.0f}",
            f"{one['orders_per_s']:,.0f}",
            f"{one['lines_per_s']:,.0f}",
            f"{one['cpu_us']:,.0f}",
            *(f"{one[name]:,.0f}" for name in ("beside", "beside_us") if with_reference),
            *(f"{one['by_component_us'].get(part, 0.0):,.0f}" for part in COMPONENTS),
        ]
        for one in points
    ]
    reference = ["orders/s beside it", "us beside it"] if with_reference else []
    head = [x, "orders/s", "lines/s", "us CPU per order", *reference, *COMPONENTS]
    return section(title, "", head, rows)


def _targets(data: Data) -> str:
    return section("Targets", "", ["target", "wanted", "measured", ""], judge(data))


def section(title: str, note: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A heading and an aligned table; nothing where there are no rows."""
    body = [list(row) + [""] * (len(head) - len(row)) for row in rows]
    if not body:
        return ""
    widths = [max(len(row[at]) for row in [head, *body]) for at in range(len(head))]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in [head, *body]
    ]
    rule = "|".join("-" * (width + 2) for width in widths)
    table = [f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])]
    return "\n".join([f"## {title}{f' ({note})' if note else ''}", "", *table])


def listed(title: str, lines: Sequence[str]) -> str:
    """A heading and a list; nothing where there are no lines."""
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines)]) if lines else ""
