"""Side by side: this system and its baselines under the same orders, in turn."""

from collections.abc import Collection, Mapping
from functools import partial
from statistics import median
from typing import Final

from tests.benchmarks import latency, rounds, traffic
from tests.benchmarks.baselines import CeleryNoop, Textbook
from tests.benchmarks.bench import Bench, Case
from tests.benchmarks.flower import WithFlower
from tests.benchmarks.reserva import Reserva
from tests.benchmarks.systems import System, unless

RESERVA: Final = "reserva"
EVERYSEC: Final = "reserva, everysec"
FLOWER: Final = "reserva with Flower"
TEXTBOOK: Final = "textbook"
TUNED: Final = "textbook, tuned"
NOOP: Final = "celery no-op"
SYSTEMS: Final = (RESERVA, TEXTBOOK, NOOP)

SCARCE_SKU: Final = "scarce"
SCARCE_UNITS, SCARCE_BUYERS = 1_200, 2_000

CALM_PER_S: Final = 50.0
#: Of the maximum that the rounds have shown.
BUSY_SHARE: Final = 0.7
#: Asking for a result costs about as much as placing an order, and the maximum is one of orders alone. So of those that
#: arrive at its 70 % one in ten is followed; a second run follows each of half as many.
BUSY_FOLLOWED: Final = 10
#: How soon a baseline, which answers at once, is asked again.
AGAIN_AFTER_S: Final = 0.005


def side_by_side(bench: Bench, wanted: Collection[str], systems: Collection[str]) -> None:
    """Rounds of the wanted scenarios: spread, hot, everysec, flower, tuned."""
    for system in _systems(bench, wanted, systems).values():
        bench.start(system)
    bench.interleave(_cases(bench.running, wanted))
    for system in bench.running.values():
        bench.remember_memory(system)


def _systems(bench: Bench, wanted: Collection[str], systems: Collection[str]) -> dict[str, System]:
    with_baselines = bool({"spread", "hot"} & set(wanted))
    known = {
        RESERVA: (with_baselines or "everysec" in wanted, Reserva),
        TEXTBOOK: (with_baselines, Textbook),
        NOOP: ("spread" in wanted, CeleryNoop),
    }
    chosen: dict[str, System] = {
        name: kind(bench.folder / name.replace(" ", "-"), name)
        for name, (is_wanted, kind) in known.items()
        if is_wanted and name in systems
    }
    if "tuned" in wanted and TEXTBOOK in systems:
        chosen[TUNED] = Textbook(bench.folder / "tuned", TUNED, keeps_connections=True)
    if "flower" in wanted and RESERVA in systems:
        chosen[FLOWER] = WithFlower(bench.folder / "flower", FLOWER, FLOWER="true")
    return chosen


def _cases(running: Mapping[str, System], wanted: Collection[str]) -> list[Case]:
    cases = [
        _case(running[name], scenario, orders)
        for scenario, orders in (("spread", traffic.spread()), ("hot", traffic.hot))
        for name in (RESERVA, TEXTBOOK, NOOP)
        # To a task that does nothing all SKUs are alike.
        if scenario in wanted and name in running and (name, scenario) != (NOOP, "hot")
    ]
    if "everysec" in wanted and RESERVA in running:
        cases.append(_case(running[RESERVA], "spread", traffic.spread(), append_fsync="everysec"))
    cases += [_case(running[name], "spread", traffic.spread()) for name in (FLOWER, TUNED) if name in running]
    return cases


def _case(system: System, scenario: str, orders: traffic.Traffic, append_fsync: str = "always") -> Case:
    if not isinstance(system, Reserva):
        return Case(system=system, scenario=scenario, traffic=orders)
    return Case(
        system=system,
        label=EVERYSEC if append_fsync == "everysec" else system.name,
        scenario=scenario,
        traffic=orders,
        prepare=partial(system.redis.config_set, "appendfsync", append_fsync),
    )


def scarce(bench: Bench) -> None:
    """More buyers than units of one SKU: each unit is sold, and none twice."""
    system = bench.reserva(RESERVA)
    system.put_on_sale({SCARCE_SKU: SCARCE_UNITS})
    found = rounds.run(system, [[(SCARCE_SKU, 1)]] * SCARCE_BUYERS, tag=bench.tag(), scenario="scarce")
    on_sale, sold = system.snapshot([SCARCE_SKU]).products[SCARCE_SKU]
    bench.keep(found)
    bench.wrong("scarce", [*found.faults, *unless(sold == on_sale, f"{on_sale - sold} units not sold")])
    bench.say(str(found))


def latencies(bench: Bench) -> None:
    """Calm arrivals at all systems that run, in turn, then a busy Reserva alone."""
    for number in range(bench.pace.rounds):
        for name in SYSTEMS:
            if name in bench.running:
                _latency(bench, bench.running[name], "calm", CALM_PER_S, number, of=bench.pace.rounds)
    bench.stop_all_but([RESERVA])
    busy_per_s = BUSY_SHARE * maximum(bench)
    system = bench.reserva(RESERVA)
    rounds, busy_rounds = bench.pace.rounds, bench.pace.busy_rounds
    for number in range(busy_rounds):
        _latency(bench, system, "busy", busy_per_s, number, of=busy_rounds, follow_every=BUSY_FOLLOWED)
        if number < rounds:
            _latency(bench, system, "half of it, all followed", busy_per_s / 2, number, of=rounds)


def maximum(bench: Bench) -> float:
    """Orders/s that the rounds have shown; where there were none, of one round now."""
    rates = [
        one.orders_per_s
        for one in bench.found.rounds
        if (one.system, one.scenario) == (RESERVA, "spread") and not one.faults
    ]
    if not rates:
        case = _case(bench.reserva(RESERVA), "spread", traffic.spread())
        bench.warm_up(case)
        rates = [bench.round(case, bench.pace.round_s).orders_per_s]
    return median(rates)


def _latency(
    bench: Bench,
    system: System,
    scenario: str,
    per_second: float,
    number: int,
    *,
    of: int,
    follow_every: int = 1,
) -> None:
    if isinstance(system, Reserva):
        system.redis.config_set("appendfsync", "always")
    bench.rest()
    found = latency.measure(
        system,
        traffic.spread(),
        tag=bench.tag(),
        scenario=scenario,
        per_second=per_second,
        seconds=bench.pace.steady_s,
        follow_every=follow_every,
        again_after_s=AGAIN_AFTER_S,
    )
    bench.found.latency.append(found)
    bench.wrong(f"{system.name}, {scenario}", found.faults)
    bench.say(
        f"round {number + 1}/{of}: {system.name}: {scenario}, {per_second:,.0f}/s: "
        f"p50 {found.p50_ms:.1f} ms, p95 {found.p95_ms:.1f} ms, p99 {found.p99_ms:.1f} ms "
        f"(generator late by {found.late_p99_ms:.1f} ms)"
    )
