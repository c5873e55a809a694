"""This tree beside an earlier state of it: paired rounds, in turn.

    python -m tests.benchmarks.compare v0.1.0
    make bench BEFORE=v0.1.0

Both run on the packages of this tree. Each state comes first as often as second: other load on the machine meets both alike.
A ratio is one of a pair, now to before. CPU per order is steadier than orders per second, and the median of the pairs is
steadier than any one of them.
"""

import argparse
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Final, TypeVar

from tests.benchmarks import bench, contest, latency, traffic
from tests.benchmarks.alone import measured
from tests.benchmarks.bench import Bench, Case
from tests.benchmarks.latency import Latency
from tests.benchmarks.report import listed, section
from tests.benchmarks.reserva import ROOT, Reserva
from tests.benchmarks.rounds import Round

BEFORE: Final = "before"
NOW: Final = "now"
PAIRS: Final = 8
#: Seconds of load in a round, and of a round of steady arrivals.
ROUND_S: Final = 4.0
STEADY_S: Final = 6.0

Each = TypeVar("Each")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare. Returns the exit code: 1 where a round was wrong, 2 where there is no such revision."""
    options = _parser().parse_args(arguments)
    try:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", "--format=tar", options.revision],
            check=True,
            capture_output=True,
        ).stdout
    except subprocess.CalledProcessError as error:
        sys.stderr.write(error.stderr.decode())
        return 2
    return measured(lambda folder: _compare(folder, archive, options.pairs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("revision", help="the earlier state, as git names it")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of each scenario (default: %(default)s)")
    return parser


def _compare(folder: Path, archive: bytes, pairs: int) -> int:
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder / "tree", filter="data")
    with Bench(folder, bench.FULL) as run:
        both = (Reserva(folder / BEFORE, BEFORE, root=folder / "tree"), Reserva(folder / NOW, NOW))
        for system in both:
            run.start(system)
        _rounds(run, both, pairs)
        busy_per_s = contest.BUSY_SHARE * median(_figures(run.found.rounds, NOW, "spread", _rate))
        _arrivals(run, both, pairs, "calm", contest.CALM_PER_S, follow_every=1)
        _arrivals(run, both, pairs, "busy", busy_per_s, follow_every=contest.BUSY_FOLLOWED)
    sys.stdout.write(_report(run))
    return 1 if run.found.wrong else 0


def _rounds(run: Bench, both: Sequence[Reserva], pairs: int) -> None:
    for scenario, orders in (("spread", traffic.spread()), ("hot", traffic.hot)):
        cases = [Case(system=system, scenario=scenario, traffic=orders) for system in both]
        for case in cases:
            run.warm_up(case)
        for case in _in_turn(cases, pairs):
            run.rest()
            found = run.round(case, ROUND_S)
            run.keep(found)
            run.say(str(found))


def _arrivals(
    run: Bench, both: Sequence[Reserva], pairs: int, scenario: str, per_second: float, *, follow_every: int
) -> None:
    for system in _in_turn(both, pairs):
        run.rest()
        found = latency.measure(
            system,
            traffic.spread(),
            tag=run.tag(),
            scenario=scenario,
            per_second=per_second,
            seconds=STEADY_S,
            follow_every=follow_every,
            again_after_s=contest.AGAIN_AFTER_S,
        )
        run.found.latency.append(found)
        run.wrong(f"{system.name}, {scenario}", found.faults)
        run.say(
            f"{system.name}: {scenario}, {per_second:,.0f}/s: p50 {found.p50_ms:.1f}, p99 {found.p99_ms:.1f} ms"
        )


def _in_turn(both: Sequence[Each], pairs: int) -> Iterable[Each]:
    for number in range(pairs):
        yield from both[:: 1 - 2 * (number % 2)]


def _rate(one: Round) -> float:
    return one.orders_per_s


def _cost(one: Round) -> float:
    return one.total_us


def _component(name: str) -> Callable[[Round], float]:
    return lambda one: one.cpu_us.get(name, 0.0)


_ROUND_FIGURES: Final = {
    "orders/s": _rate,
    "us CPU per order": _cost,
    **{f"of it {name}": _component(name) for name in ("web", "worker", "redis", "postgres")},
}
_ARRIVAL_FIGURES: Final[dict[str, Callable[[Latency], float]]] = {
    "p50 ms": lambda one: one.p50_ms,
    "p99 ms": lambda one: one.p99_ms,
    "us CPU per order": lambda one: sum(one.cpu_us.values()),
}


def _figures(
    found: Sequence[Each], system: str, scenario: str, figure: Callable[[Each], float]
) -> list[float]:
    return [figure(one) for one in found if (one.system, one.scenario) == (system, scenario)]  # type: ignore[attr-defined]


def _report(run: Bench) -> str:
    rows = [
        _row(scenario, name, run.found.rounds, figure)
        for scenario in ("spread", "hot")
        for name, figure in _ROUND_FIGURES.items()
    ] + [
        _row(scenario, name, run.found.latency, figure)
        for scenario in ("calm", "busy")
        for name, figure in _ARRIVAL_FIGURES.items()
    ]
    head = (
        "scenario",
        "figure",
        "before",
        "now",
        "ratio of pairs",
        "ratios from ... to",
        "before from ... to",
        "now from ... to",
    )
    pairs = len(run.found.rounds) // 4
    note = f"medians of {pairs} pairs; calm: {contest.CALM_PER_S:g} orders/s, busy: 70 % of the maximum"
    return (
        "\n\n".join(
            [section("Now and before", note, head, rows), listed("WRONG, and so no result", run.found.wrong)]
        )
        + "\n"
    )


def _row(scenario: str, name: str, found: Sequence[Each], figure: Callable[[Each], float]) -> list[str]:
    before, now = (_figures(found, system, scenario, figure) for system in (BEFORE, NOW))
    ratios = [a / b if b else 1.0 for a, b in zip(now, before, strict=True)]
    return [
        *(scenario, name, f"{median(before):,.1f}", f"{median(now):,.1f}"),
        *(f"{median(ratios):.3f}", f"{min(ratios):.3f} to {max(ratios):.3f}"),
        *(f"{min(each):,.1f} to {max(each):,.1f}" for each in (before, now)),
    ]


if __name__ == "__main__":
    sys.exit(main())
