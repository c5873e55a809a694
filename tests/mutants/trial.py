"""Tries mutants: in a copy of the project, with one guard out, the tests that are to notice must fail."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.mutants.mutant import ROOT, Mutant, NoLongerApplies

#: The tests of one mutant are stopped after so many seconds. A test that hangs has noticed nothing.
PATIENCE_S: Final = 240
#: What a test raises where the replacement is no program at all: that says nothing of the guard.
NO_PROGRAM: Final = re.compile(
    r"SyntaxError|NameError|ImportError|ModuleNotFoundError|Error compiling script|nonexistent global|syntax error at"
)
_LEFT_OUT: Final = {".git", ".venv", "__pycache__", ".data"}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of a mutant: red (as it must be), green, broken, or one that no longer applies. `why`: where not red."""

    mutant: Mutant
    verdict: str
    seconds: float = 0.0
    why: str = ""

    @property
    def is_red(self) -> bool:
        """Whether each of its tests noticed."""
        return self.verdict == "red"


def files() -> Iterator[Path]:
    """The project's files, from its root: what git knows, or may come to know; without git, what is no cache."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        found = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    else:
        found = [path.relative_to(ROOT) for path in ROOT.rglob("*")]
        found = [path for path in found if not _LEFT_OUT.intersection(path.parts)]
    yield from sorted(path for path in found if (ROOT / path).is_file())


def try_out(mutant: Mutant) -> Tried:
    """Take the guard out in a copy of the project and run the tests that are to notice it there."""
    began = time.monotonic()
    try:
        mutated = mutant.mutated()
    except (NoLongerApplies, SyntaxError) as fault:
        return Tried(mutant=mutant, verdict="no longer applies", why=str(fault))
    with tempfile.TemporaryDirectory(prefix="reserva-mutant-") as folder:
        copy = Path(folder) / "project"
        _copy_to(copy)
        (copy / mutant.file).write_text(mutated)
        try:
            verdict, why = _verdict(mutant, copy, Path(folder) / "results.xml")
        finally:
            end_programs_in(Path(folder))
    return Tried(mutant=mutant, verdict=verdict, why=why, seconds=time.monotonic() - began)


def _copy_to(copy: Path) -> None:
    """Copy the project, and what was compiled of it: that is valid for files of the same time and size."""
    folders = set()
    for path in files():
        if path.parent not in folders:
            folders.add(path.parent)
            (copy / path.parent).mkdir(parents=True, exist_ok=True)
            if (compiled := ROOT / path.parent / "__pycache__").is_dir():
                shutil.copytree(
                    compiled, copy / path.parent / "__pycache__", ignore=shutil.ignore_patterns("*.pyc.*")
                )
        shutil.copy2(ROOT / path, copy / path)


def _verdict(mutant: Mutant, copy: Path, results: Path) -> tuple[str, str]:
    pytest = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    ours = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    with subprocess.Popen(
        [*pytest, f"--junitxml={results}", *mutant.tests],
        cwd=copy,
        env=ours,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as tests:
        try:
            said, _ = tests.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            _end(tests)
            return "broken", f"its tests took longer than {PATIENCE_S} s"
    if not results.exists():
        return "broken", said[-600:]
    return judged(mutant, results.read_text()) or ("broken", said[-600:])


def _end(tests: "subprocess.Popen[str]") -> None:
    """As Ctrl-C does, so that the tests stop their servers; those that do not hear are killed."""
    tests.send_signal(signal.SIGINT)
    try:
        tests.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        tests.kill()


def end_programs_in(folder: Path) -> None:
    """Kill what still runs in the folder: without its guard a test may leave a program behind that spins for ever."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # it has ended meanwhile, or is somebody else's
            if link.readlink().is_relative_to(folder):
                os.kill(int(link.parent.name), signal.SIGKILL)


def judged(mutant: Mutant, results: str) -> tuple[str, str] | None:
    """The verdict that the results of tests give (JUnit's XML), and why; None where they lack one of the tests."""
    cases = list(ElementTree.fromstring(results).iter("testcase"))
    for test in mutant.tests:
        named = [case for case in cases if _is_of(case, test)]
        if not named:
            return None
        found = [result for case in named for result in case if result.tag in {"failure", "error"}]
        failures = [result for result in found if result.tag == "failure" or _is_of_a_fixture(result, mutant)]
        if errors := [_told(result) for result in found if result not in failures]:
            return "broken", f"{test} could not run: {errors[0]}"
        if not failures:
            return "green", f"{test} does not notice"
        if all(NO_PROGRAM.search(result.get("message", "")) for result in failures):
            return "broken", f"{test}: {_told(failures[0])}"
    return "red", ""


def _is_of_a_fixture(error: ElementTree.Element, mutant: Mutant) -> bool:
    """Whether a fixture noticed it: after the test, or before it where all happens there."""
    told = error.get("message", "")
    return told.startswith("failed on teardown") or (mutant.by_fixture and "AssertionError" in told)


def _told(result: ElementTree.Element) -> str:
    return result.get("message", "")[:600]


def _is_of(case: ElementTree.Element, test: str) -> bool:
    """Whether a case is of a test: with its parameters where they are named, else with any."""
    file, _, wanted = test.partition("::")
    is_of_file = case.get("classname", "") == file.removesuffix(".py").replace("/", ".")
    name = case.get("name", "")
    return is_of_file and (name if "[" in wanted else name.partition("[")[0]) == wanted
