"""Programs that a preloaded process starts are what they are when they are started from nothing, only sooner."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import wait_until
from tests.preloaded import preloaded
from workers.processes import Child, Part, spawn

RUNS = pytest.mark.parametrize(
    "run", [spawn, lambda *how: preloaded().run(*how)], ids=["from nothing", "from a preloaded process"]
)

TELL = """
import json, os, sys
print(json.dumps([sys.argv[1:], __name__, os.environ.get("TOLD"), os.environ.get("NOT_TOLD"), os.getsid(0) == os.getpid()]))
print("and this", file=sys.stderr)
sys.exit(3)
"""


def a_program(folder: Path, code: str, *arguments: str) -> Part:
    """A module, run with `python -m`."""
    (folder / "program.py").write_text(code)
    env = {"PYTHONPATH": str(folder), "TOLD": "so"}
    return Part(
        name="program",
        argv=[sys.executable, "-m", "program", *arguments],
        log=folder / "log",
        env=env,
    )


@RUNS
def test_a_program_gets_its_arguments_environment_and_log_and_its_status_is_told(
    tmp_path: Path, run: Callable[..., object]
) -> None:
    child = Child(a_program(tmp_path, TELL, "a", "b"), run=run)  # type: ignore[arg-type]

    assert child.exit_status == 3
    lines = (tmp_path / "log").read_text().splitlines()
    (told,) = (json.loads(line) for line in lines if line.startswith("["))
    assert told == [["a", "b"], "__main__", "so", None, True]
    assert "and this" in lines


@RUNS
def test_a_program_that_is_killed_is_told_to_be(tmp_path: Path, run: Callable[..., object]) -> None:
    child = Child(a_program(tmp_path, "import time; print(1, flush=True); time.sleep(600)"), run=run)  # type: ignore[arg-type]
    wait_until((tmp_path / "log").read_text, what="its start")

    assert child.is_alive()
    os.kill(child.pid, signal.SIGKILL)

    assert child.exit_status == 128 + signal.SIGKILL
    assert child.ending == "SIGKILL"
