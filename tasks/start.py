"""What a worker and a scheduler look at before they begin: whether the stores let them do their work."""

from typing import Any

from celery.signals import beat_init, worker_init, worker_ready

from shop.redis_permissions import Process
from shop.storage_check import insist, is_refused_by_redis, warn_about_redis
from workers import heartbeat


@worker_init.connect
def _before_a_worker(**_: Any) -> None:
    insist(Process.WORKER)


@beat_init.connect
def _before_a_scheduler(**_: Any) -> None:
    insist(Process.SCHEDULER)


@worker_ready.connect
def _look_at_redis(**_: Any) -> None:
    """Say what of Redis's settings can lose orders."""
    warn_about_redis()


def _is_worker_refused() -> bool:
    """Rights may be taken from a worker that runs, and a Redis that was unavailable at its start may refuse them."""
    return is_refused_by_redis(Process.WORKER)


heartbeat.obstacles.append(_is_worker_refused)
