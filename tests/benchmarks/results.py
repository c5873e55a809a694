"""Results as data: what is written as JSON, and what the table and the plots are made from."""

import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.bench import Findings

PACKAGES: Final = (
    "celery",
    "kombu",
    "redis",
    "django",
    "uvloop",
    "httptools",
    "granian",
    "psycopg",
    "msgspec",
    "flower",
)

Data = dict[str, Any]


def as_data(found: Findings, *, form: str) -> Data:
    """All that was found, with the figures that follow from it."""
    return {
        "form": form,
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES}
        | found.versions,
        "rounds": [
            asdict(one)
            | {"orders_per_s": one.orders_per_s, "lines_per_s": one.lines_per_s, "total_us": one.total_us}
            for one in found.rounds
        ],
        "latency": [asdict(one) for one in found.latency],
        "overload": [asdict(one) for one in found.overload],
        "curves": {name: [asdict(one) for one in points] for name, points in found.curves.items()},
        "memory_mib": found.memory_mib,
        "notes": found.notes,
        "wrong": found.wrong,
    }


def machine() -> dict[str, str | int]:
    """What it ran on."""
    about = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in about if line.startswith("model name")), "unknown")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "system": f"{platform.system()} {platform.release()}",
    }
