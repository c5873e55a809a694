"""Workers for errands, and what can be seen of them from outside."""

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.builders import wait_until
from tests.errands import Diary, app, send, some
from tests.preloaded import preloaded
from workers.processes import Child, Part

#: In what time a small test's errands are done; Celery's pool may need 5 s to notice a process that died.
SOON_S = 20


class Worker:
    """A worker process for errands, killed at the end."""

    def __init__(
        self, folder: Path, *options: str, limits: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        name = f"errands-{os.urandom(3).hex()}"
        self.name = f"{name}@tests"
        self.diary = Diary(folder)
        self._log = folder / f"{name}.log"
        quiet = ("--without-mingle", "--without-gossip", "-l", "INFO")
        argv = ["celery", "-A", "tests.errands", "worker", "-n", self.name, "-c", "1", *quiet, *options]
        given = {"folder": str(folder), "settings": settings, "limits": dict(limits or {})}
        self._part = Part(
            name=name,
            argv=[sys.executable, "-m", *argv],
            log=self._log,
            env={"PYTHONPATH": os.getcwd(), "ERRANDS": json.dumps(given)},
            is_ready=lambda: " ready." in self.log(),
            grace_s=15,
        )

    def __enter__(self) -> Self:
        self.child = Child(self._part, run=preloaded().run)
        try:
            self.child.wait_ready()
        except BaseException:
            self.child.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()

    def log(self) -> str:
        """What the worker has written."""
        return self._log.read_text()


@contextmanager
def a_busy_crew(crew: Worker, **options: Any) -> Iterator[str]:
    """While it lasts, a process of the crew works on one errand, whose name this is. `options`: how it is sent."""
    (name,) = some(1)
    send(name, "waits", **options)
    wait_until(lambda: crew.diary.batches(name), what="the errand to keep it busy")
    try:
        yield name
    finally:
        crew.diary.mark("go on")
        wait_until(lambda: crew.diary.has("done", [name]), what="the end of the errand that kept it busy")
        crew.diary.wipe("go on")


def in_hand(worker: Worker, kind: str) -> set[str]:
    """The ids that a worker calls `active` or `reserved`."""
    answers: dict[str, Any] = {}

    def answered() -> bool:
        # A worker that has just connected may not have subscribed yet.
        inspect = app.control.inspect(destination=[worker.name], timeout=5)
        answers.update(getattr(inspect, kind)() or {})
        return bool(answers)

    wait_until(answered, what="its answer")
    return {request["id"] for request in answers[worker.name]}


def wait_in_line(worker: Worker, names: list[str]) -> None:
    """Wait until a worker has all these in hand."""
    wait_until(
        lambda: set(names) <= in_hand(worker, "reserved"), timeout_s=SOON_S, what="all of them in hand"
    )


def wait_for_all(worker: Worker, names: list[str]) -> None:
    """Wait until all these errands are done."""
    wait_until(
        lambda: worker.diary.has("done", names), timeout_s=SOON_S, what=f"the end of {len(names)} errands"
    )


@contextmanager
def what_is_told() -> Iterator[list[dict[str, Any]]]:
    """The events of tasks, as any monitor sees them."""
    told: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": told.append})
        ready = threading.Event()
        receiver.on_consume_ready = lambda *_, **__: ready.set()
        thread = threading.Thread(target=lambda: list(receiver.itercapture(wakeup=False)))
        thread.start()
        ready.wait(SOON_S)
        try:
            yield told
        finally:
            receiver.should_stop = True
            thread.join()


def of(told: list[dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    """The events of one task, by kind."""
    return {event["type"]: event for event in told if event.get("uuid") == name}
