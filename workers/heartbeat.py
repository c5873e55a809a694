"""Whether a worker can take orders: a key in Redis that expires when the worker stops writing it.

The worker's own loop writes the key while its consumer is connected, subscribed and fetches from the queue of orders, so a
worker that is frozen, cut off or refused by its broker goes silent. `inspect ping` would ask all workers at once and wait.
The key says nothing of PostgreSQL, of a pause, or of the processes of the pool: Celery replaces those that die, and a time
limit ends those that freeze over a job. `python -m workers.heartbeat NAME` is a health check.
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import redis
from celery import bootsteps
from celery.signals import worker_shutting_down

from workers.transport import Transport

#: The queue that a worker must take from to count.
QUEUE = "orders"
#: A worker writes every two seconds; silent for so long, it counts as gone.
EVERY_S = 2.0
TTL_S = 10
#: How often a worker looks whether a heartbeat is due, so that a new one is known soon.
LOOK_EVERY_S = 0.1
#: How often it asks `obstacles` again, and whether one that stood in the way is gone.
ASK_EVERY_S = 30.0
ASK_AGAIN_S = 2.0
#: Names of workers by when they last wrote it, so that nobody has to search all keys for them; kept for a day.
SEEN = "workers:seen"
SEEN_S = 86_400

_clients: dict[int, "redis.Redis"] = {}
#: Names under which this process has said that it stops.
_stopping: set[str] = set()

#: What else may keep a worker from its orders: each tells whether there is something, and logs what.
obstacles: list[Callable[[], bool]] = []


def _client() -> "redis.Redis":
    """One client per process, and never one that was opened before a fork."""
    from django.conf import settings  # noqa: PLC0415 - read when a worker runs, not when its module is imported

    if os.getpid() not in _clients:
        _clients[os.getpid()] = redis.Redis.from_url(
            settings.REDIS_URL, decode_responses=True, socket_timeout=1, socket_connect_timeout=1
        )
    return _clients[os.getpid()]


def key(name: str) -> str:
    """The key that the process called `name` keeps alive."""
    return f"heartbeat:worker:{name}"


def beat(name: str) -> None:
    """Say that the worker can take orders. Redis away is not this worker's fault, and shows by the key's absence."""
    if name in _stopping:
        return
    try:
        try:
            _write(name)
        except redis.ResponseError as refusal:
            if "WRONGTYPE" not in str(refusal):
                return
            # Something else lies under the key of names. The beats of all workers fill it again.
            _client().delete(SEEN)
            _write(name)
    except redis.RedisError:
        return
    if name in _stopping:
        # The signal to stop came in between, and this beat after the farewell: it would look like the last one of the dead.
        fall_silent(name)


def _write(name: str) -> None:
    now = time.time()
    pipe = _client().pipeline(transaction=False)
    pipe.set(key(name), f"{now:.3f}", ex=TTL_S)
    pipe.zadd(SEEN, {name: now})
    pipe.zremrangebyscore(SEEN, "-inf", now - SEEN_S)
    pipe.execute()


def fall_silent(sender: Any, **_: Any) -> None:
    """Say that the worker takes no more work; no beat follows, by which it would be missed."""
    _stopping.add(str(sender))
    try:
        _client().delete(key(str(sender)))
    except redis.RedisError:
        return


def takes_orders(consumer: Any) -> bool:
    """Whether a worker's consumer is connected and takes messages from the queue of orders."""
    connection, tasks = consumer.connection, consumer.task_consumer
    if not (connection and connection.connected and tasks and tasks.consuming_from(QUEUE)):
        return False
    # Of a broker that is not Redis, Celery's loop runs only while the connection holds.
    transport = connection.transport
    return transport.takes_messages() if isinstance(transport, Transport) else True


class Heartbeat(bootsteps.StartStopStep):
    """A part of a worker's consumer: it starts with each connection to the broker, and ends with it."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Beat from now on, whenever the consumer takes orders."""
        self._beat_at = self._ask_at = 0.0
        self._timer = consumer.timer.call_repeatedly(LOOK_EVERY_S, self._look, (consumer,))

    def stop(self, consumer: Any) -> None:
        """Beat no more: the connection is gone, or the worker stops."""
        if self._timer is not None:
            consumer.timer.cancel(self._timer)
            self._timer = None

    def _look(self, consumer: Any) -> None:
        now = time.monotonic()
        if now < self._beat_at or not takes_orders(consumer):
            return
        if now >= self._ask_at:
            if any(is_there() for is_there in obstacles):
                self._beat_at = now + ASK_AGAIN_S
                return
            self._ask_at = now + ASK_EVERY_S
        self._beat_at = now + EVERY_S
        beat(consumer.hostname)


def main() -> int:
    """Exit code 0 if the worker named on the command line (default `worker@<host>`) can take orders."""
    name = sys.argv[1] if len(sys.argv) > 1 else f"worker@{socket.gethostname()}"
    try:
        return 0 if _client().exists(key(name)) else 1
    except redis.RedisError as error:
        print(error, file=sys.stderr)
        return 1


worker_shutting_down.connect(fall_silent)

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    raise SystemExit(main())
