"""Workers that an order called `poison` kills, each time when its units are taken and nothing is written yet."""

import os
import signal
from typing import Any

from shop import books
from workers.app import app  # noqa: F401 - what celery runs

_record = books.record


def _record_or_die(decisions: list[Any]) -> Any:
    if any(decision.order.reference == "poison" and decision.status == "confirmed" for decision in decisions):
        os.kill(os.getpid(), signal.SIGKILL)
    return _record(decisions)


books.record = _record_or_die
