"""One run of the benchmark: its systems, its pace, its clock, and what it found."""

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from tests.benchmarks import rounds, traffic
from tests.benchmarks.latency import Latency
from tests.benchmarks.load import LoadFailed
from tests.benchmarks.meter import memory_mib
from tests.benchmarks.reserva import Reserva
from tests.benchmarks.rounds import Point, Round
from tests.benchmarks.systems import System
from tests.benchmarks.traffic import Traffic

#: The first orders warm a system up; how fast they end says how many the next round needs.
WARM_ORDERS: Final = 200
WARM_S: Final = 1.0
FEWEST_ORDERS: Final = 20


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long to measure: rounds of each case, seconds of load in a round, seconds of a round of steady arrivals.

    Rounds of busy arrivals may be more: of each few, one meets what comes seldom, like a checkpoint.
    """

    rounds: int
    round_s: float
    steady_s: float
    busy_rounds: int = 1


QUICK: Final = Pace(rounds=2, round_s=2, steady_s=2.5, busy_rounds=2)
FULL: Final = Pace(rounds=3, round_s=5, steady_s=8, busy_rounds=5)


@dataclass(kw_only=True)
class Findings:
    """What was measured. `wrong`: what was found amiss with it; a round that was wrong is no result."""

    rounds: list[Round] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    overload: list[Any] = field(default_factory=list)
    curves: dict[str, list[Point]] = field(default_factory=dict)
    memory_mib: dict[str, Mapping[str, float]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One system under one kind of traffic.

    `prepare` runs before each of its rounds. `label`: its name in the table, where that is not the system's own.
    """

    system: System
    scenario: str
    traffic: Traffic
    label: str = ""
    warm_orders: int = WARM_ORDERS
    prepare: Callable[[], object] = lambda: None


class Bench:
    """Starts systems when they are first needed and stops them all at the end."""

    def __init__(self, folder: Path, pace: Pace) -> None:
        self.folder = folder
        self.pace = pace
        self.found = Findings()
        self.running: dict[str, System] = {}
        self._systems = ExitStack()
        self._rates: dict[tuple[str, str], float] = {}
        self._began = time.monotonic()
        self._left: dict[str, float] = {}
        self._step = ("", 0.0, 0.0)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop all systems; after a run that went to its end, each is looked at once more."""
        with self._systems:
            while self.running:
                self.stop(next(iter(self.running)), audit=kind is None)

    def expect(self, steps: Mapping[str, float]) -> None:
        """Take note of what is to be done and about how long each step takes, in seconds."""
        self._left = dict(steps)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step of those expected. A load that fails ends the step, not the run."""
        self._step = (name, time.monotonic(), self._left.get(name, 0.0))
        try:
            yield
        except (LoadFailed, TimeoutError) as error:
            self.wrong(name, [str(error)])
        finally:
            self._left.pop(name, None)

    def say(self, text: str) -> None:
        """Tell what happened and about how long everything else takes."""
        now = time.monotonic()
        name, began, expected = self._step
        if name in self._left:
            self._left[name] = max(1.0, expected - (now - began))
        to_go = f", about {sum(self._left.values()):3.0f} s to go" if self._left else ""
        sys.stderr.write(f"[{now - self._began:4.0f} s{to_go}] {text}\n")
        sys.stderr.flush()

    def start(self, system: System, skus: int = traffic.SPREAD_SKUS) -> None:
        """Start a system and put its catalogue on sale."""
        self._systems.callback(system.stop)
        self.running[system.name] = system
        system.start()
        system.put_on_sale(traffic.on_sale(skus))
        if isinstance(system, Reserva):
            self.found.versions |= system.versions()
        self.say(f"{system.name} is up")

    def reserva(self, name: str, skus: int = traffic.SPREAD_SKUS, **env: str) -> Reserva:
        """The Reserva of this name, started if it does not run yet."""
        if name not in self.running:
            self.start(Reserva(self.folder / name.replace(" ", "-"), name, **env), skus)
        system = self.running[name]
        assert isinstance(system, Reserva)
        return system

    def stop(self, name: str, *, audit: bool = True) -> None:
        """Stop a system; `audit`: look once more at everything it has stored."""
        system = self.running.pop(name)
        if audit:
            self.wrong(f"{name}, at the end", system.audit())
        system.stop()

    def stop_all_but(self, needed: Collection[str]) -> None:
        """Stop what the next step has no use for."""
        for name in set(self.running) - set(needed):
            self.stop(name)

    def interleave(self, cases: Sequence[Case]) -> None:
        """Rounds of all cases in turn, so that whatever else the machine does hits all of them alike."""
        for case in cases:
            self.warm_up(case)
        for number in range(self.pace.rounds):
            for case in cases:
                self.rest()
                found = self.round(case, self.pace.round_s)
                self.keep(found)
                self.say(f"round {number + 1}/{self.pace.rounds}: {found}")

    def rest(self) -> None:
        """Let systems do what they put off while they are busy, not while another one is measured. Raises TimeoutError."""
        for system in self.running.values():
            if isinstance(system, Reserva):
                system.rest()

    def warm_up(self, case: Case) -> None:
        """Find out how fast a system is."""
        for _ in range(2):
            self.round(case, WARM_S)

    def round(self, case: Case, seconds: float, *, left_waiting: int = 0) -> Round:
        """One round of about so many seconds, judged by the round before. Raises LoadFailed."""
        case.prepare()
        key = (case.label or case.system.name, case.scenario)
        count = max(FEWEST_ORDERS, round(self._rates.get(key, 0.0) * seconds))
        found = rounds.run(
            case.system,
            case.traffic(count if key in self._rates else case.warm_orders),
            tag=self.tag(),
            scenario=case.scenario,
            label=case.label,
            left_waiting=left_waiting,
        )
        self._rates[key] = found.orders_per_s
        self.wrong(f"{found.system}, {found.scenario}", found.faults)
        return found

    def tag(self) -> str:
        """What the idempotency keys of the next round begin with."""
        self._number += 1
        return f"round-{self._number}"

    def keep(self, found: Round) -> None:
        """Take a round into the results."""
        self.found.rounds.append(found)

    def wrong(self, where: str, faults: Sequence[str]) -> None:
        """Take note of what is wrong, and say it."""
        for fault in faults:
            self.found.wrong.append(f"{where}: {fault}")
            self.say(f"WRONG: {where}: {fault}")

    def remember_memory(self, system: System) -> None:
        """Memory of a system that has just worked."""
        self.found.memory_mib[system.name] = memory_mib(system.pids())
