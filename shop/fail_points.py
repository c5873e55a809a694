"""The fail points on the way of an order (`workers.fail_points`), and the alarm for a system that has them switched on."""

from collections.abc import Sequence
from typing import Any, Final

import structlog
from django.core import checks

from workers.fail_points import FOLDER, VARIABLE

log = structlog.get_logger()

#: Each name that is reached somewhere, and what has happened by then.
POINTS: Final = {
    "web.before_claim": "orders are valid; Redis knows nothing of them",
    "web.after_claim": "key, record and message are written; the client has not heard",
    "web.before_answer": "the order was accepted, or found; its answer is not sent",
    "worker.received": "a pool process has messages in hand; nothing is done",
    "worker.before_reserve": "the orders are about to be reserved",
    "worker.after_reserve": "locks and units are taken; nothing is decided",
    "worker.before_commit": "decisions are about to be written",
    "worker.after_commit": "PostgreSQL has decided; Redis has not heard",
    "worker.before_settle": "all of the batch is decided; nothing is published",
    "worker.after_settle": "states are published, locks released; the worker's parent has not heard",
    "worker.before_acknowledge": "the worker's parent knows the end of an order; its message is unacknowledged",
    "sweeper.before_requeue": "an overdue order was found; it is not in line again",
    "cancel.before_books": "an order is about to be cancelled",
    "cancel.after_books": "PostgreSQL has returned the units; Redis has not heard",
    "cancel.after_settle": "the order shows as cancelled, and its units are on sale again",
    "movement.before_books": "a movement is about to be written",
    "movement.after_books": "PostgreSQL has the movement; Redis has not heard",
    "catalogue.before_load": "the products of a file are written; they are not committed",
    "catalogue.after_books": "the products are committed; no counter is written",
    "reconcile.before_repair": "a difference is explained; it is not repaired",
}


def warn_if_armed() -> None:
    """Say so, loudly, in the log of a process that can be told to fail."""
    if FOLDER:
        log.critical(
            "FAIL POINTS ARE SWITCHED ON: whoever can write files there can kill this process",
            folder=str(FOLDER),
        )


def check_unarmed(app_configs: Sequence[Any] | None, **_: Any) -> list[checks.CheckMessage]:
    """What `manage.py check --deploy` has to say."""
    if not FOLDER:
        return []
    hint = f"Take {VARIABLE} out of the environment: it is for tests alone."
    return [checks.Error(f"{VARIABLE} is set: {FOLDER} can make processes fail.", hint=hint, id="shop.E001")]
