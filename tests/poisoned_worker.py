"""Workers that an order called `poison` kills, each time when its units are taken and nothing is written yet."""

import os
import signal
from typing import Any

from shop import books
from workers.app import app  # noqa: F401 - what celery runs

_decide = books.decide


def _decide_or_die(questions: list[Any], **history: str) -> Any:
    if any(each.order.reference == "poison" and each.intent == "take" for each in questions):
        os.kill(os.getpid(), signal.SIGKILL)
    return _decide(questions, **history)


books.decide = _decide_or_die
