"""Running a system of several programs: what dies comes back, and nothing is left when it stops."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from workers.embedded import PostgresServer, RedisServer
from workers.ports import free_port, port_problem
from workers.proc import is_running, marked_with, working_in
from workers.processes import Part, PartFailedError
from workers.supervisor import MARK, AlreadyRunningError, Pids, Supervisor

ROOT = Path(__file__).parent.parent

SLEEPS = "import signal; signal.pause()"
HAS_A_CHILD = "import subprocess; subprocess.run(['sleep', '600'])"
STOPS_FOR_NOBODY = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""
TELLS_WHEN_IT_STOPS = """
import pathlib, signal, sys
def stop(*_):
    with open(sys.argv[1], "a") as told:
        print(sys.argv[2], file=told)
    sys.exit()
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1] + sys.argv[2]).touch()
while True:
    signal.pause()
"""
TELLS_ITS_NICENESS = """
import os, pathlib, signal, sys
autogroup = pathlib.Path("/proc/self/autogroup")
session = autogroup.read_text().partition(" ")[2].strip() if autogroup.exists() else ""
draft = pathlib.Path(sys.argv[1] + ".draft")
draft.write_text(f"{os.getpriority(os.PRIO_PROCESS, 0)} {session}")
draft.rename(sys.argv[1])
signal.pause()
"""
AUTOGROUP = Path("/proc/self/autogroup")

Watcher = Callable[[Pids], None]


def ask_to_stop(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


class Diary:
    """What a supervisor said, and a next step for each time that it announced process ids."""

    stop_at = "never"

    def __init__(self, *steps: Watcher) -> None:
        self.lines: list[str] = []
        self.seen: list[Pids] = []
        self._steps = list(steps)

    def say(self, line: str) -> None:
        self.lines.append(line)
        if self.stop_at in line:
            ask_to_stop()

    def changed(self, pids: Pids) -> None:
        self.seen.append(pids)
        if self._steps:
            self._steps.pop(0)(pids)

    def tells(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@pytest.fixture(autouse=True)
def _no_test_runs_for_ever() -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise AssertionError("the supervisor was not done within 30 s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., Part]:
    """Makes parts of Python programs."""

    def made(name: str, program: str, *arguments: str, **wishes: object) -> Part:
        argv = [sys.executable, "-S", "-c", program, *arguments]
        return Part(name=name, argv=argv, log=tmp_path / "logs" / f"{name}.log", **wishes)  # type: ignore[arg-type]

    return made


def supervisor(folder: Path, diary: Diary) -> Supervisor:
    return Supervisor(folder, say=diary.say, changed=diary.changed)


def kill(name: str) -> Watcher:
    return lambda pids: os.kill(pids[name][0], signal.SIGKILL)


def session_niceness(niceness: int) -> str:
    """What the kernel says of a session that was told so, sched(7); nothing where it weighs no sessions.

    A session of its own is asked: the one that the machine began with, which the tests may run in, is never weighed.
    """
    asked = ["sh", "-c", f"! test -e {AUTOGROUP} || cat {AUTOGROUP}"]
    told = subprocess.run(asked, start_new_session=True, capture_output=True, check=True).stdout
    return f"nice {niceness}" if told else ""


def stop(_: Pids) -> None:
    ask_to_stop()


def test_a_part_that_was_killed_runs_again_under_a_new_process_id(
    tmp_path: Path, python: Callable[..., Part]
) -> None:
    diary = Diary(kill("web"), stop)

    with supervisor(tmp_path, diary) as system:
        system.start(python("web", SLEEPS), python("worker", SLEEPS))
        system.keep()

    before, after = diary.seen
    assert before["web"] != after["web"]
    assert before["worker"] == after["worker"]
    assert diary.tells("web ended with SIGKILL; starting it again")


def test_children_of_a_killed_part_are_gone_before_it_runs_again(
    tmp_path: Path, python: Callable[..., Part]
) -> None:
    orphans: list[int] = []

    def kill_the_parent(pids: Pids) -> None:
        parent, *children = pids["web"]
        orphans.extend(children)
        os.kill(parent, signal.SIGKILL)

    def look(_: Pids) -> None:
        assert not any(is_running(pid) for pid in orphans)
        ask_to_stop()

    diary = Diary(kill_the_parent, look)
    with supervisor(tmp_path, diary) as system:
        part = python("web", HAS_A_CHILD)
        system.start(part)
        system.wait_until(lambda: len(system.pids["web"]) == 2, what="a child", within_s=10)
        system.keep()

    assert len(orphans) == 1
    assert len(diary.seen) >= 2


@pytest.mark.parametrize("niceness", [0, 7])
def test_a_part_stands_back_for_others_as_far_as_it_was_told_with_its_whole_session(
    tmp_path: Path, python: Callable[..., Part], niceness: int
) -> None:
    told = tmp_path / "told"
    part = python("web", TELLS_ITS_NICENESS, str(told), niceness=niceness, is_ready=told.exists)

    with supervisor(tmp_path, Diary(stop)) as system:
        system.start(part)
        system.keep()

    assert told.read_text() == f"{niceness} {session_niceness(niceness)}"


def test_a_part_that_keeps_ending_is_tried_again_at_growing_intervals(
    tmp_path: Path, python: Callable[..., Part]
) -> None:
    broken = tmp_path / "broken"
    program = f"import pathlib, signal; pathlib.Path({str(broken)!r}).exists() and exit(3); signal.pause()"

    def break_it(pids: Pids) -> None:
        broken.touch()
        kill("web")(pids)

    diary = Diary(break_it)
    diary.stop_at = "again in 0.8 s"
    with supervisor(tmp_path, diary) as system:
        system.start(python("web", program))
        system.keep()

    waits = [line.partition("again in ")[2] for line in diary.lines if "starting it again" in line]
    assert waits == ["0.2 s", "0.4 s", "0.8 s"]


def test_parts_stop_in_the_opposite_order_of_their_start(tmp_path: Path, python: Callable[..., Part]) -> None:
    told = tmp_path / "told"
    names = ["database", "worker", "web"]

    with supervisor(tmp_path, Diary(stop)) as system:
        for name in names:
            started = Path(f"{told}{name}")
            system.start(python(name, TELLS_WHEN_IT_STOPS, str(told), name, is_ready=started.exists))
        system.keep()

    assert told.read_text().split() == ["web", "worker", "database"]


def test_a_part_that_does_not_stop_is_ended_by_force_after_its_grace(
    tmp_path: Path, python: Callable[..., Part]
) -> None:
    deaf = tmp_path / "deaf"
    diary = Diary(stop)

    with supervisor(tmp_path, diary) as system:
        system.start(python("web", STOPS_FOR_NOBODY, str(deaf), is_ready=deaf.exists, grace_s=0.3))
        system.keep()

    assert diary.tells("web was ended by force")
    assert not is_running(diary.seen[0]["web"][0])


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_shortens_the_grace(
    tmp_path: Path, python: Callable[..., Part], first: signal.Signals
) -> None:
    deaf = tmp_path / "deaf"

    def stop_twice(_: Pids) -> None:
        ask_to_stop(first)
        ask_to_stop(signal.SIGINT)

    diary = Diary(stop_twice)
    with supervisor(tmp_path, diary) as system:
        system.start(python("web", STOPS_FOR_NOBODY, str(deaf), is_ready=deaf.exists, grace_s=600))
        system.keep()

    assert diary.tells("web was ended by force")


def test_a_second_sigterm_does_not_shorten_the_grace(tmp_path: Path, python: Callable[..., Part]) -> None:
    told = tmp_path / "told"

    def stop_twice(_: Pids) -> None:
        ask_to_stop(signal.SIGTERM)
        ask_to_stop(signal.SIGTERM)

    diary = Diary(stop_twice)
    with supervisor(tmp_path, diary) as system:
        started = Path(f"{told}web")
        system.start(python("web", TELLS_WHEN_IT_STOPS, str(told), "web", is_ready=started.exists))
        system.keep()

    assert told.read_text() == "web\n"
    assert diary.tells("web stopped")


def test_a_part_that_fails_at_the_start_is_reported_with_the_end_of_its_log(
    tmp_path: Path, python: Callable[..., Part]
) -> None:
    failing = python("web", "raise SystemExit('no such shop')", is_ready=lambda: False)

    with supervisor(tmp_path, Diary()) as system:
        system.start(python("database", SLEEPS))
        with pytest.raises(PartFailedError, match=r"web ended with exit status 1(?s:.*)no such shop"):
            system.start(failing)

    assert not marked_with(MARK, str(tmp_path))


def test_a_part_that_dies_while_the_others_start_is_an_error(
    tmp_path: Path, python: Callable[..., Part]
) -> None:
    never_ready = python("web", SLEEPS, is_ready=lambda: False)

    with supervisor(tmp_path, Diary()) as system:
        system.start(python("worker", "raise SystemExit(3)"))
        with pytest.raises(PartFailedError, match="worker ended with exit status 3"):
            system.start(never_ready)

    assert not marked_with(MARK, str(tmp_path))


def test_a_task_in_between_hands_back_what_it_printed(tmp_path: Path) -> None:
    with supervisor(tmp_path, Diary()) as system:
        printed = system.run([sys.executable, "-c", "print(6 * 7)"], env={}, cwd=ROOT)

        with pytest.raises(PartFailedError, match=r"exit status 1(?s:.*)table is missing"):
            system.run([sys.executable, "-c", "exit('table is missing')"], env={}, cwd=ROOT)

    assert printed == "42\n"


def test_ctrl_c_while_starting_stops_what_was_started(tmp_path: Path, python: Callable[..., Part]) -> None:
    with supervisor(tmp_path, Diary()) as system:
        system.start(python("database", SLEEPS))
        ask_to_stop(signal.SIGINT)
        system.run(["sleep", "600"], env={}, cwd=ROOT)

    assert not marked_with(MARK, str(tmp_path))


def test_a_second_system_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    diary = Diary()
    with supervisor(tmp_path, diary):
        refused = pytest.raises(AlreadyRunningError, match=f"process {os.getpid()} already runs .*{tmp_path}")
        with refused, supervisor(tmp_path, diary):
            pass

    with supervisor(tmp_path, diary):
        pass  # free again


def test_killed_servers_come_back_on_the_same_ports_with_their_data(tmp_path: Path) -> None:
    redis_server = RedisServer(tmp_path / "redis", append_fsync="always")
    postgres = PostgresServer(tmp_path / "postgres")

    def write_then_kill(pids: Pids) -> None:
        with redis.Redis.from_url(redis_server.url) as client, psycopg.connect(postgres.url) as connection:
            client.set("kept", "yes")
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        kill("redis")(pids)
        kill("postgres")(pids)

    def read_then_stop(_: Pids) -> None:
        with redis.Redis.from_url(redis_server.url) as client, psycopg.connect(postgres.url) as connection:
            assert client.get("kept") == b"yes"
            assert connection.execute("SELECT one FROM kept").fetchall() == [(1,)]
        ask_to_stop()

    diary = Diary(write_then_kill, read_then_stop)
    with supervisor(tmp_path, diary) as system:
        system.start(redis_server.part, postgres.part)
        system.keep()

    assert len(diary.seen) == 2
    assert not working_in(tmp_path / "redis")
    assert not working_in(tmp_path / "postgres" / "cluster")


def test_a_taken_port_is_recognised(tmp_path: Path) -> None:
    port = free_port()
    assert port_problem(port) is None

    with RedisServer(tmp_path, port=port):
        assert port_problem(port) == "Address already in use"
