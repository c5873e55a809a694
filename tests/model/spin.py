"""Runs spin: makes a searching program from the model, runs it, and reads what it found."""

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.model.searches import HOLDS, NEVER_RESTS, PROTOCOL, Search

#: Steps of one run that the search follows, memory that it may take, and its time.
DEPTH: Final = 20_000
MEMORY_MB: Final = 4_000
PATIENCE_S: Final = 900

#: Nothing is remembered by a hash alone: every search is a full one.
_COMPILE: Final = ("-w", "-DVECTORSZ=256", f"-DMEMLIM={MEMORY_MB}")
_FAIR_CYCLES: Final = ("-DCOLLAPSE", "-DNFAIR=3")
_BAD_STATES: Final = ("-DCOLLAPSE", "-DSAFETY", "-DNOCLAIM")
#: Breadth first, so that what goes wrong is told in as few steps as there can be.
_NEAREST_BAD_STATE: Final = ("-DBFS", "-DSAFETY", "-DNOCLAIM")


class Unsearched(Exception):
    """The search did not come to its end, so that it says nothing."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found: `HOLDS` or the property that failed, with the story of how; states looked at and seconds."""

    verdict: str
    states: int
    seconds: float
    story: str = ""


def missing_tools() -> list[str]:
    """The programs that a search needs and this machine does not have."""
    return [name for name in ("spin", "cc") if shutil.which(name) is None]


def search(wanted: Search, folder: Path) -> Found:
    """Search in a folder of its own. Raises `Unsearched`."""
    folder.mkdir()
    shutil.copy(PROTOCOL, folder)
    defined = [f"-D{name}={value}" for name, value in wanted.definitions.items()]
    _run(["spin", *defined, "-a", PROTOCOL.name], folder)
    kind = (
        _FAIR_CYCLES if wanted.liveness else _BAD_STATES if wanted.expected == HOLDS else _NEAREST_BAD_STATE
    )
    # A small search takes less time than a compiler that optimises.
    optimise = "-O0" if wanted.quick else "-O2"
    _run(["cc", optimise, *_COMPILE, *kind, "-o", "pan", "pan.c"], folder)
    began = time.monotonic()
    report = _run(["./pan", *(("-a", "-f") if wanted.liveness else ()), f"-m{DEPTH}"], folder)
    seconds = time.monotonic() - began
    trail = Path(f"{PROTOCOL.name}.trail")
    told = (
        _run(["spin", *defined, "-k", trail.name, "-t", PROTOCOL.name], folder)
        if (folder / trail).exists()
        else ""
    )
    return Found(verdict=verdict(report, told), states=states(report), seconds=seconds, story=story(told))


def _run(command: Sequence[str], folder: Path) -> str:
    """What the program wrote; its exit code says nothing with spin."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise Unsearched(f"{command[0]} took longer than {PATIENCE_S} s") from late
    if command[0] == "cc" and done.returncode:
        raise Unsearched(done.stdout)
    return done.stdout


def verdict(report: str, told: str) -> str:
    """`HOLDS`, or the property that failed. `told`: the failing run as spin tells it. Raises `Unsearched`."""
    errors = re.search(r"errors: (\d+)", report)
    cut_short = re.search(
        r"max search depth too small|out of memory|memory limit|hash array too small", report
    )
    if not errors or cut_short:
        raise Unsearched(report.strip() or "spin wrote no program")
    if errors[1] == "0":
        if "Search not completed" in report:
            raise Unsearched(report.strip())
        return HOLDS
    if "acceptance cycle (" in report:
        return NEVER_RESTS
    failed = re.search(r"assert\(\(?(\w+)==0\)?\)", told)
    return failed[1] if failed else report.strip().splitlines()[0]


def states(report: str) -> int:
    """How many states the search looked at."""
    stored = re.search(r"([\d.e+]+) states, stored", report)
    return int(float(stored[1])) if stored else 0


def story(told: str) -> str:
    """The steps of a failing run, as the model's `printf` tell them."""
    steps = [line.strip() for line in told.splitlines() if line.startswith((" ", "\t"))]
    return "\n".join(step for step in steps if " = " not in step and not re.match(r"\d+:", step))
