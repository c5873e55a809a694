"""What a run has shown, as data and as Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, Final

from tests.benchmarks.report import listed, section
from tests.benchmarks.results import machine
from tests.chaos.checker import DOUBLED, LOST, OVERSOLD, UNDERSOLD, Violation
from tests.chaos.faults import CATALOGUE
from tests.chaos.history import OK, UNKNOWN
from tests.chaos.run import Plan, Result
from tests.chaos.storm import Injection

COLUMNS: Final = (LOST, DOUBLED, OVERSOLD, UNDERSOLD)
#: A fault may still show its harm so long after its end.
AFTERMATH_S: Final = 30.0
#: Violations told in full.
EXAMPLES: Final = 30

_HEAD: Final = (
    *("fault", "", "times", "orders in flight", *COLUMNS),
    *("s to next 202, median / worst", "s to recover, median / worst", "measured"),
)

Data = dict[str, Any]


def as_data(plan: Plan, result: Result) -> Data:
    """All that was found, without the history, which is a file of its own."""
    orders = [one for one in result.operations if one.op == "order"]
    ends = [one.end - result.began_at for one in result.operations if one.op == "order" and one.outcome == OK]
    seconds = int(max(ends, default=0.0)) + 1
    rate = [0] * seconds
    for end in ends:
        rate[max(0, int(end))] += 1
    return {
        "seed": plan.seed,
        "seconds": seconds,
        "machine": machine(),
        "versions": result.versions,
        "requests": len(result.operations),
        "unknown": sum(one.outcome == UNKNOWN for one in result.operations),
        "accepted": len({one.id for one in orders if one.outcome == OK}),
        "ended": result.ended,
        "locks_taken": result.locks_taken,
        "rest_s": result.rest_s,
        "append_fsync": plan.append_fsync,
        "could_be_gone": result.could_be_gone,
        "gone": result.gone,
        "accepted_per_s": rate,
        "injections": [_relative(asdict(one), result.began_at) for one in result.injections],
        "faults": [_row(name, plan, result) for name in _names(plan)],
        "harm": _total(result.violations),
        "violations": [asdict(one) for one in result.violations],
        "green": result.is_green,
    }


def _relative(injection: Data, began_at: float) -> Data:
    moments = {name: injection[name] - began_at for name in ("injected_at", "healed_at")}
    return injection | moments


def _names(plan: Plan) -> list[str]:
    return [fault.name for fault in plan.faults]


def _row(name: str, plan: Plan, result: Result) -> Data:
    every = [one for one in result.injections if one.fault == name]
    injected = [one for one in every if not one.missed]
    harm = [one for one in result.violations if any(_may_come_from(one, each) for each in injected)]
    return {
        "fault": name,
        "description": CATALOGUE[name].description,
        "answers": CATALOGUE[name].answers,
        "times": len(injected),
        "not_hit": len(every) - len(injected),
        "in_flight": sum(one.in_flight for one in injected),
        "harm": _total(harm),
        "answered_s": [one.answered_s for one in injected if one.answered_s is not None],
        "recovered_s": [one.recovered_s for one in injected if one.recovered_s is not None],
    }


def _may_come_from(violation: Violation, injection: Injection) -> bool:
    """Whether a fault was there when the harm can have come about."""
    if not violation.since:
        return False
    until = (violation.until or violation.since) + AFTERMATH_S
    return injection.injected_at <= until and violation.since <= injection.healed_at + AFTERMATH_S


def _total(violations: Iterable[Violation]) -> dict[str, int]:
    total = dict.fromkeys(COLUMNS, 0)
    for one in violations:
        if one.column in total:
            total[one.column] += one.wrong
    return total


def summed(runs: Sequence[Data]) -> str:
    """The table of several runs as one, for the documentation: harm, and how long it took until all was well."""
    by_name: dict[str, list[Data]] = {}
    for row in (row for run in runs for row in run["faults"] if row["times"]):
        by_name.setdefault(row["fault"], []).append(row)
    total = {
        name: sum(run[name] for run in runs) for name in ("accepted", "requests", "unknown", "locks_taken")
    }
    injected = sum(row["times"] for rows in by_name.values() for row in rows)
    harm = ", ".join(f"{sum(run['harm'][column] for run in runs)} {column}" for column in COLUMNS)
    head = (
        f"{len(runs)} runs (seeds {', '.join(str(run['seed']) for run in runs)}), {sum(map(_seconds, runs)):,} s: "
        f"{injected:,} faults of {len(by_name)} kinds, {total['accepted']:,} orders accepted in {total['requests']:,} "
        f"requests ({total['unknown']:,} with an unknown outcome), {total['locks_taken']:,} locks watched; {harm}; "
        f"{sum(not run['green'] for run in runs)} runs red; gone with what Redis was made to lose: "
        f"{sum(run['gone'] for run in runs)} of {sum(run['could_be_gone'] for run in runs)} orders that could be"
    )
    rows = [_summed_row(name, rows) for name, rows in by_name.items()]
    return f"{head}\n\n{section('Faults', '', [*_HEAD[:1], *_HEAD[2:-1]], rows)}\n"


def _seconds(run: Data) -> int:
    seconds: int = run["seconds"]
    return seconds


def _summed_row(name: str, rows: Sequence[Data]) -> list[str]:
    seconds = {kind: [one for row in rows for one in row[kind]] for kind in ("answered_s", "recovered_s")}
    return [
        f"`{name}`: {rows[0]['description']}",
        f"{sum(row['times'] for row in rows):,}",
        f"{sum(row['in_flight'] for row in rows):,}",
        *(str(sum(row["harm"][column] for row in rows)) for column in COLUMNS),
        _pair(seconds["answered_s"]),
        _pair(seconds["recovered_s"]),
    ]


def render(data: Data) -> str:
    """The report."""
    wrong = [f"{one['check']}: {one['what']}" for one in data["violations"]]
    sections = [_head(data), _table(data), listed("WRONG", wrong[:EXAMPLES]), _missed(data)]
    return "\n\n".join(text for text in sections if text) + "\n"


def _head(data: Data) -> str:
    about = data["machine"]
    injected = sum(row["times"] for row in data["faults"])
    kinds = sum(row["times"] > 0 for row in data["faults"])
    ended = ", ".join(f"{number:,} {status}" for status, number in sorted(data["ended"].items()))
    harm = ", ".join(f"{number} {column}" for column, number in data["harm"].items())
    verdict = "GREEN" if data["green"] else f"RED, {len(data['violations'])} violations"
    return (
        f"# Faults: {verdict}\n\n"
        f"Seed {data['seed']}, {data['seconds']:,} s on {about['cores']} cores of {about['cpu']}: {injected:,} faults of "
        f"{kinds} kinds; {data['requests']:,} requests, {data['unknown']:,} of them with an unknown outcome; "
        f"{data['accepted']:,} orders accepted, {ended}; {data['locks_taken']:,} locks seen to be taken.\n\n"
        f"{harm}. At rest {data['rest_s']:.1f} s after the last fault. Redis (`appendfsync {data['append_fsync']}`) was "
        f"made to lose {data['could_be_gone']} orders that nobody had decided; {data['gone']} of them are gone."
    )


def _table(data: Data) -> str:
    rows = [
        [
            f"`{row['fault']}`",
            row["description"],
            f"{row['times']:,}",
            f"{row['in_flight']:,}",
            *(str(row["harm"][column]) for column in COLUMNS),
            _pair(row["answered_s"]),
            _pair(row["recovered_s"]),
            str(len(row["recovered_s"])),
        ]
        for row in data["faults"]
        if row["times"]
    ]
    return section("Faults", "seconds from the end of the fault; other kinds may overlap", _HEAD, rows)


def _pair(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.1f} / {max(seconds):.1f}" if seconds else ""


def _missed(data: Data) -> str:
    rows = [f"`{row['fault']}`: {row['not_hit']} times" for row in data["faults"] if row["not_hit"]]
    return listed("Not hit: there was nothing the fault could be done to", rows)
