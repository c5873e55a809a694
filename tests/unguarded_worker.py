"""The Celery application with heartbeats of a process that lives, whatever becomes of its orders."""

from typing import Any

from celery.signals import heartbeat_sent

from workers import heartbeat
from workers.app import app

__all__ = ["app"]


@heartbeat_sent.connect
def _beat(sender: Any, **_: Any) -> None:
    heartbeat.beat(sender.eventer.hostname)
