"""A Celery application for tests of how messages travel: errands that go well, wait, fail, or kill their process.

An errand is a name and a conduct. What becomes of errands is noted in files, because Redis may be away.
"""

import gc
import json
import os
import signal
import time
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.worker.control import inspect_command
from kombu import Exchange, Queue

from workers import batching
from workers.batching import Outcome, Unhandled
from workers.transport import Park

OURS, STOCK = "workers.transport:Transport", "kombu.transport.redis:Transport"
QUEUES = ("errands", "chores")
OPTIONS = {
    "visibility_timeout": 15,
    "unacked_restore_interval": 0.2,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 1,
    "socket_timeout": 1,
}
#: For workers that die.
SOON_OVERDUE = {**OPTIONS, "visibility_timeout": 2}


def an_app(transport: str | None = OURS, **settings: Any) -> Celery:
    """An application that sends errands; a worker process of this module runs them."""
    app = Celery("errands", broker=os.environ["CELERY_BROKER_URL"], set_as_current=False)
    app.conf.update(
        broker_transport=transport,
        broker_transport_options=OPTIONS,
        broker_connection_retry_on_startup=True,
        broker_channel_error_retry=True,
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
        task_default_queue=QUEUES[0],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=64,
        worker_enable_prefetch_count_reduction=False,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
    )
    app.conf.update(settings)
    return app


class Diary:
    """Notes about errands, and marks that they look for, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def note(self, page: str, line: str) -> None:
        """Add a line to a page."""
        with (self._folder / page).open("a") as file:
            file.write(f"{line}\n")

    def page(self, page: str) -> list[str]:
        """All lines of a page, the oldest first."""
        file = self._folder / page
        return file.read_text().splitlines() if file.exists() else []

    def has(self, page: str, names: Collection[str]) -> bool:
        """Whether all these names are on a page."""
        return set(names) <= set(self.page(page))

    def batches(self, *names: str) -> list[list[str]]:
        """What was run together, the oldest batch first; only batches with one of these names, where given."""
        batches = [json.loads(line) for line in self.page("batches")]
        return [batch for batch in batches if not names or set(batch) & set(names)]

    def mark(self, mark: str, about: str = "") -> None:
        """Set a mark."""
        (self._folder / mark).write_text(about)

    def wipe(self, mark: str) -> None:
        """Take a mark away."""
        (self._folder / mark).unlink()

    def marked(self, mark: str) -> bool:
        """Whether a mark is set."""
        return (self._folder / mark).exists()

    def wait_for(self, mark: str) -> None:
        """Wait until a mark is set, in an errand."""
        deadline = time.monotonic() + 20
        while not self.marked(mark) and time.monotonic() < deadline:
            time.sleep(0.005)


_given = json.loads(os.environ.get("ERRANDS", "{}"))
diary = Diary(Path(_given.get("folder", ".")))
app = an_app(**_given.get("settings", {}))
for _name, _limit in _given.get("limits", {}).items():
    # What is taken out does nothing.
    setattr(batching, _name, (lambda *_: None) if _limit is None else _limit)


def run_together(bodies: Sequence[bytes]) -> list[Outcome]:
    """The errands of a batch, each by its conduct."""
    errands = [json.loads(body)[0][:2] for body in bodies]
    conducts = {conduct for _, conduct in errands}
    diary.note("batches", json.dumps([name for name, _ in errands]))
    if "takes a while" in conducts:
        time.sleep(0.005 * len(errands))
    if "waits" in conducts:
        diary.wait_for("go on")
    if "overruns" in conducts:
        time.sleep(20)
    if "is put off" in conducts and diary.marked("closed"):
        return [Park.until_over("errand", _since_ms()) for _ in errands]
    if "is put off once" in conducts and not diary.marked("put off"):
        diary.mark("put off")
        diary.wait_for("go on")
        return [Park.until_over("errand", _since_ms()) for _ in errands]
    if "does not stop" in conducts:
        _wait_whatever_comes()
    for conduct in sorted(conducts):
        _misbehave(conduct)
    return [] if "is not answered" in conducts else [_outcome(*errand) for errand in errands]


def _outcome(name: str, conduct: str) -> Outcome:
    if conduct.startswith("goes alone"):
        return Unhandled.ALONE
    if conduct == "needs the desk" and diary.marked("desk taken"):
        return Park("the desk", _since_ms(), 50)
    diary.note("done", name)
    return f"{name} done"


def _wait_whatever_comes() -> None:
    try:
        diary.wait_for("go on")
    except SoftTimeLimitExceeded:
        diary.wait_for("go on")


def _since_ms() -> int:
    return int(time.time() * 1000)


def _misbehave(conduct: str) -> None:
    if conduct == "kills" and len(diary.page("killed")) < 2:
        diary.note("killed", str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    if conduct == "raises":
        raise ValueError("an errand that can't be run")


def run_alone(name: str, conduct: str = "goes well", _load: str = "") -> str:
    """One errand by itself."""
    diary.note("alone", name)
    _misbehave(conduct)
    if conduct == "goes alone and takes a while":
        time.sleep(0.1)
    diary.note("done", name)
    return f"{name} done"


errand = app.task(
    name="errand", shared=False, Strategy="workers.batching:strategy", batch=staticmethod(run_together)
)(run_alone)
stock_errand = app.task(name="stock_errand", shared=False)(run_alone)


@inspect_command()
def callbacks(state: Any) -> int:
    """For tests: how many callbacks a worker's loop makes in each of its turns."""
    return len(state.consumer.hub.on_tick)


@inspect_command()
def collected(_state: Any) -> int:
    """For tests: how many objects a worker has left to the garbage collector, because they referred to themselves."""
    gc.collect()
    return sum(generation["collected"] for generation in gc.get_stats())


def send(
    name: str, conduct: str = "goes well", *, by: Celery = app, task: str = "errand", **options: Any
) -> str:
    """Put an errand on the queue; the task's id is its name."""
    by.send_task(task, args=[name, conduct, *options.pop("more", [])], task_id=name, **options)
    return name


def some(count: int) -> list[str]:
    """Names of errands."""
    run = uuid.uuid4().hex[:6]
    return [f"{run}-{number}" for number in range(count)]


def send_many(count: int, conduct: str = "goes well", *, by: Celery = app) -> list[str]:
    """Put errands on the queue; their names."""
    return [send(name, conduct, by=by) for name in some(count)]
