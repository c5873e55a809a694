"""Every kind of process of ours that stands still is replaced; log, metrics and board say so; orders do not mind."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shop import keys, replacements
from shop.board import Board
from shop.stores import redis_client
from tests.builders import a_sku, wait_until
from tests.failing import FailPoints
from tests.impatient_web import SILENT_S
from tests.running import Answer, System
from tests.test_flower import Flower
from workers.ports import free_port
from workers.proc import is_running
from workers.processes import Child, Part

#: Within which a process is replaced and at work: it is silent for a while, and Celery starts slowly on a busy machine.
SOON_S = 45.0


class Kept:
    """A program of Celery's as in a container: under a parent of ours."""

    def __init__(self, folder: Path, part: str, *celery: str) -> None:
        ours = ["-m", "workers.parent", f"--part={part}", f"--silent-s={SILENT_S}", "--"]
        argv = [sys.executable, *ours, sys.executable, "-m", "celery", "--app=workers.app", *celery]
        env = {"PYTHONPATH": os.getcwd(), "TMPDIR": str(folder), "FLOWER_BASIC_AUTH": "operator:secret"}
        self.log = folder / f"{part}.log"
        self.child = Child(Part(name=part, argv=argv, log=self.log, env=env, grace_s=15))

    @property
    def pid(self) -> int:
        """The program's main process."""
        return self.child.pids[1]


@contextmanager
def celery(folder: Path) -> Iterator[dict[str, Kept]]:
    """Worker, scheduler and Flower, which start while something else does; at work once a test has waited for `at_work`."""
    quiet = ["--without-gossip", "--without-mingle", "--events"]
    options = {
        "worker": [
            "worker",
            "--hostname=worker@kept",
            "--queues=orders,maintenance",
            *quiet,
            "--concurrency=2",
        ],
        "scheduler": ["beat", f"--schedule={folder / 'schedule'}", "--pidfile="],
        "flower": ["flower", "--address=127.0.0.1", f"--port={free_port()}"],
    }
    kept = {part: Kept(folder, part, *celery) for part, celery in options.items()}
    flower = Flower(int(options["flower"][-1].rpartition("=")[2]))
    try:
        wait_until(
            lambda: redis_client().exists(keys.SWEEPER_HEARTBEAT) and flower.get("/healthcheck")[0] == 200,
            timeout_s=SOON_S,
            what="a sweep, and Flower",
        )
        yield kept
    finally:
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda each: each.child.stop(), kept.values()))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What was seen while processes stood still: `blocked` by its own code, `stopped` by SIGSTOP.

    `placed`: an order of that time. `left`: those that had been ended by the time of its answer.
    """

    web: System
    kept: dict[str, Kept]
    stopped: dict[str, int]
    blocked: int
    placed: Answer
    left: list[int]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Two of three web processes, worker, scheduler and Flower stand still; then all of them are replaced."""
    redis_client().flushdb()
    folder = tmp_path_factory.mktemp("scene")
    points = FailPoints(folder)
    web = System(folder, env={"FAIL_POINTS": str(folder)}, web_module="tests.impatient_web")
    with ThreadPoolExecutor() as threads, web:
        starting = threads.submit(web.start, "web")
        with celery(folder) as kept:
            starting.result()
            blocked = block_one(web, points)
            first = next(pid for pid in web.pids("web")[1:] if pid != blocked)
            stopped = {"web": first} | {part: each.pid for part, each in kept.items()}
            for pid in stopped.values():
                os.kill(pid, signal.SIGSTOP)
            placed = web.place((a_sku(), 1))
            silent = [blocked, *stopped.values()]
            left = [pid for pid in silent if not is_running(pid)]
            wait_until(lambda: not any(map(is_running, silent)), timeout_s=SOON_S, what="their end")
            wait_until(lambda: len(counted(web)) == 4, timeout_s=SOON_S, what="what replaced them")
            yield Scene(web=web, kept=kept, stopped=stopped, blocked=blocked, placed=placed, left=left)


def block_one(web: System, points: FailPoints) -> int:
    """Have a web process stand in a line of Python, where it hears no SIGTERM; its id."""
    body = {"items": [{"sku": a_sku(), "quantity": 1}]}
    with points.armed("web.before_claim", "delay 600000"), pytest.raises(OSError, match="timed out"):
        web.send("POST", "/api/v1/orders", body, {"Idempotency-Key": "blocked"}, timeout_s=0.5)
    (hit,) = points.hits()
    blocked = int(hit.name.split(".")[2])
    os.kill(blocked, signal.SIGTERM)
    return blocked


def counted(web: System) -> dict[str, float]:
    """Replaced processes by their labels, as Prometheus is told."""
    lines = web.get("/metrics").body.splitlines()
    found = (line.split() for line in lines if line.startswith("reserva_process_replacements_total{"))
    return {labels.partition("{")[2]: float(number) for labels, number in found if float(number)}


def test_an_order_placed_meanwhile_is_taken_at_once_and_ends(scene: Scene) -> None:
    assert (scene.placed.status, scene.left) == (202, [])
    assert scene.web.end_of(scene.placed.body["id"]).body["status"] == "confirmed"


def test_as_many_web_processes_serve_as_before(scene: Scene) -> None:
    wait_until(lambda: len(scene.web.pids("web")) == 4, what="the parent and three processes")

    assert {scene.web.get("/healthz").status for _ in range(20)} == {200}
    assert not {scene.blocked, scene.stopped["web"]} & set(scene.web.pids("web"))


def test_metrics_and_board_tell_of_each_part_that_was_silent(scene: Scene) -> None:
    assert set(counted(scene.web)) == {f'cause="silent",part="{part}"}}' for part in scene.stopped}
    assert {each.part for each in replacements.recent(redis_client())} == set(scene.stopped)
    lights = Board(redis_client).shown().snapshot.lights
    (light,) = [each for each in lights if each.name == "Replaced processes"]
    assert (light.colour, light.says[-8:]) == ("warn", "; 4 more")


def test_each_log_tells_it_and_where_the_code_stood(scene: Scene) -> None:
    for part, kept in scene.kept.items():
        lines = [line for line in kept.log.read_text().splitlines() if "no sign of life" in line]
        assert [json.loads(line)["event"].split()[0] for line in lines] == [part]
    log = scene.web.log("web")
    assert f"process {scene.blocked} of web showed no sign of life" in log
    assert "in reach_in_folder" in log
