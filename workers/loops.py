"""Signs of life from the loops of Celery's programs, `workers.sign_of_life`: a worker's, the scheduler's and Flower's.

While a broker is away they do not run; `workers.transport.Connection`, which waits for it, shows signs then.
"""

from typing import Any

from celery import bootsteps
from celery.beat import PersistentScheduler

from workers import sign_of_life


class WorkerSigns(bootsteps.StartStopStep):
    """Of a worker's main process: from the loop that fetches messages and hands them to the pool."""

    requires = ("celery.worker.components:Hub",)

    def start(self, worker: Any) -> None:
        """Begin, before the consumer is started: its lost connections leave this timer alone."""
        if worker.hub:
            worker.hub.call_repeatedly(sign_of_life.SHOW_EVERY_S, sign_of_life.show)

    def close(self, _: Any) -> None:
        """The worker stops, whoever asked for it: it waits for its pool now, and its loop is over."""
        sign_of_life.say_goodbye()


class Scheduler(PersistentScheduler):
    """Of the scheduler: each time that it looks what is due."""

    def tick(self, *args: Any, **options: Any) -> float:
        """Send what is due; how long to sleep then, in seconds."""
        sign_of_life.show()
        return float(super().tick(*args, **options) or 0)
