"""Celery's task events, which Flower and other monitors hear, sent many at a time."""

import sys
import time
from typing import Any

from celery.utils.time import utcoffset

#: Events are sent so often, those of some batches in one message: a message costs as much as many events in it.
EVENTS_EVERY_S = 0.02


class TaskEvents:
    """Reports of what happens to tasks, appended to the dispatcher's own buffer, which sends them as one message."""

    def __init__(self, consumer: Any) -> None:
        self._dispatcher = consumer.event_dispatcher
        self._hub = consumer.hub
        self._is_due = False
        self._common: dict[str, Any] = {}
        if self._dispatcher:
            self._dispatcher.buffer_limit = sys.maxsize
            self._dispatcher.on_send_buffered = self._send_soon
            self._renew()

    def tell(self, kind: str, request: Any, **fields: Any) -> None:
        """Report a task's change of state, if anybody wants to know."""
        sender = self._dispatcher
        if sender and sender.enabled and "task" in (sender.groups or ["task"]) and request.task.send_events:
            event = {"type": kind, "uuid": request.id, "timestamp": time.time(), **self._common, **fields}
            event["clock"] = self._dispatcher.clock.forward()
            self._dispatcher._group_buffer["task"].append(event)
            self._send_soon()

    def _send_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._hub.call_later(EVENTS_EVERY_S, self._send)

    def _send(self) -> None:
        self._is_due = False
        self._renew()
        self._dispatcher.flush()

    def _renew(self) -> None:
        # The offset changes twice a year, under a worker that runs.
        self._common = {
            "hostname": self._dispatcher.hostname,
            "pid": self._dispatcher.pid,
            "utcoffset": utcoffset(),
        }
