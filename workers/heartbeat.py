"""Whether worker processes are alive, told by themselves: a key in Redis that expires when they stop writing it.

The key is written by the process's own loop, the one that fetches messages: a frozen or cut-off worker goes silent, where
`inspect ping` would ask all workers at once and wait. `python -m workers.heartbeat NAME` is a health check.
"""

import os
import socket
import sys
import time
from typing import Any

import redis
from celery.signals import heartbeat_sent, worker_ready, worker_shutting_down

#: A worker writes every two seconds; silent for so long, it counts as gone.
TTL_S = 10
#: Names of workers by when they last wrote it, so that nobody has to search all keys for them; kept for a day.
SEEN = "workers:seen"
SEEN_S = 86_400

_clients: dict[int, "redis.Redis"] = {}
#: Names under which this process has said that it stops.
_stopping: set[str] = set()


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


def beat(sender: Any, **_: Any) -> None:
    """Say that the worker is alive. Redis away is not this worker's fault, and shows by the key's absence."""
    heart = getattr(sender, "eventer", sender)
    if heart.hostname in _stopping:
        return
    now = time.time()
    try:
        pipe = _client().pipeline(transaction=False)
        pipe.set(key(heart.hostname), f"{now:.3f}", ex=TTL_S)
        pipe.zadd(SEEN, {heart.hostname: now})
        pipe.zremrangebyscore(SEEN, "-inf", now - SEEN_S)
        pipe.execute()
    except redis.RedisError:
        return
    if heart.hostname in _stopping:
        # The signal to stop came in between, and this beat after the farewell: it would look like the last one of the dead.
        fall_silent(heart.hostname)


def fall_silent(sender: Any, **_: Any) -> None:
    """Say that the worker takes no more work; no beat follows, by which it would be missed."""
    _stopping.add(str(sender))
    try:
        _client().delete(key(str(sender)))
    except redis.RedisError:
        return


def main() -> int:
    """Exit code 0 if the worker named on the command line (default `worker@<host>`) is alive."""
    name = sys.argv[1] if len(sys.argv) > 1 else f"worker@{socket.gethostname()}"
    try:
        return 0 if _client().exists(key(name)) else 1
    except redis.RedisError as error:
        print(error, file=sys.stderr)
        return 1


worker_ready.connect(beat)
heartbeat_sent.connect(beat)
worker_shutting_down.connect(fall_silent)

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    raise SystemExit(main())
