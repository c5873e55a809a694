"""Fail points themselves: what they do, that each does it once, that they cost nothing and hide from nobody."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shop.fail_points import POINTS
from tests.builders import wait_until
from tests.failing import FailPoints
from workers.fail_points import FailPointReached, points_in

ROOT = Path(__file__).parent.parent
REACHING = (
    "from workers.fail_points import reach; print('reaching', flush=True); reach('a.point'); print('passed')"
)


@pytest.fixture
def points(tmp_path: Path) -> FailPoints:
    """Fail points in a folder of their own."""
    return FailPoints(tmp_path)


def a_process(script: str, folder: Path | None) -> "subprocess.Popen[str]":
    """A process of its own that runs this script; with fail points in the folder, or without any."""
    others = {name: value for name, value in os.environ.items() if name != "FAIL_POINTS"}
    env = others | ({"FAIL_POINTS": str(folder)} if folder else {})
    return subprocess.Popen(
        [sys.executable, "-c", script], env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def state_of(pid: int) -> str:
    """As `ps` shows it: T for a stopped process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_point_that_is_armed_to_kill_ends_its_process_and_leaves_a_hit(points: FailPoints) -> None:
    points.arm("a.point", "kill")

    with a_process(REACHING, points.folder) as process:
        printed, _ = process.communicate(timeout=20)

    assert (process.returncode, printed) == (-signal.SIGKILL, "reaching\n")
    assert [hit.name for hit in points.hits()] == [f"a.point.{process.pid}.1.hit"]


def test_a_point_that_is_armed_to_stop_freezes_its_process_for_so_long(points: FailPoints) -> None:
    points.arm("a.point", "stop 700")

    with a_process(REACHING, points.folder) as process:
        wait_until(lambda: state_of(process.pid) == "T", what="a frozen process")
        began = time.monotonic()
        printed, _ = process.communicate(timeout=20)

    assert (process.returncode, printed) == (0, "reaching\npassed\n")
    assert time.monotonic() - began > 0.3
    assert len(points.hits("a.point")) == 1


def test_a_point_raises_or_delays_as_it_is_armed(points: FailPoints) -> None:
    reach = points_in(points.folder)

    points.arm("a.point", "raise")
    with pytest.raises(FailPointReached, match=r"a\.point"):
        reach("a.point")
    points.arm("a.point", "delay 200\n")
    began = time.monotonic()
    reach("a.point")
    took_s = time.monotonic() - began
    reach("a.point")

    assert took_s >= 0.2
    assert len(points.hits("a.point")) == 2


def test_an_action_that_does_not_exist_is_no_fault_that_was_asked_for(points: FailPoints) -> None:
    points.arm("a.point", "explode")

    with pytest.raises(ValueError, match="no action"):
        points_in(points.folder)("a.point")


def test_of_many_processes_exactly_one_acts(points: FailPoints) -> None:
    points.arm("a.point", "kill")

    processes = [a_process(REACHING, points.folder) for _ in range(8)]
    for process in processes:
        process.communicate(timeout=30)

    assert sorted(process.returncode for process in processes) == [-signal.SIGKILL, *[0] * 7]
    assert len(points.hits("a.point")) == 1


def test_without_the_variable_no_point_can_be_armed_and_reaching_one_does_nothing(points: FailPoints) -> None:
    points.arm("a.point", "kill")
    script = f"import os; {REACHING.replace(';', f'; os.chdir({str(points.folder)!r});', 1)}; print(reach.__code__.co_names)"

    with a_process(script, None) as process:
        printed, _ = process.communicate(timeout=20)

    # A body without a single name in it looks nothing up, calls nothing and opens no file.
    assert printed == "reaching\npassed\n()\n"
    assert points.hits() == []


def reached_in_code() -> dict[str, str]:
    """The points that the product reaches, and the one file where it does."""
    found: dict[str, str] = {}
    for package in ("shop", "tasks", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            for name in re.findall(r'^\s+reach\("([^"]+)"\)$', path.read_text(), re.MULTILINE):
                assert found.setdefault(name, where := str(path.relative_to(ROOT))) == where
    return found


def told_in_the_architecture() -> list[tuple[str, str, str]]:
    """The table of Note [Fail points]: name, what has happened by then, where."""
    note = (ROOT / "ARCHITECTURE.md").read_text().partition("### Note [Fail points]")[2].partition("\n##")[0]
    return re.findall(r"^\| `([a-z_.]+)` \| ([^|]+?) \| `([a-z_./]+)` \|", note, re.MULTILINE)


def test_the_points_of_the_code_are_those_of_the_list_and_of_the_architecture() -> None:
    reached = reached_in_code()

    assert set(reached) == set(POINTS)
    assert told_in_the_architecture() == [(name, then, reached[name]) for name, then in POINTS.items()]


def checked_for_deployment(folder: Path | None) -> tuple[int, str]:
    """Exit code of `manage.py check --deploy`, and what it said."""
    env = {**os.environ, **({"FAIL_POINTS": str(folder)} if folder else {})}
    command = [sys.executable, "manage.py", "check", "--deploy", "--tag", "security"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_a_system_with_fail_points_is_not_fit_to_be_deployed(tmp_path: Path) -> None:
    code, said = checked_for_deployment(tmp_path)

    assert (code, "shop.E001" in said, str(tmp_path) in said) == (1, True, True)


def test_a_system_without_fail_points_is_not_accused_of_them() -> None:
    code, said = checked_for_deployment(None)

    assert (code, "shop.E001" in said) == (0, False)
