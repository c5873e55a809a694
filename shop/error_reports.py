"""Errors, as they are logged, reported to Sentry: for whoever sets `SENTRY_DSN` and installs the extra `sentry`.

Nothing else of Sentry's is switched on: no tracing, no patching of libraries, no data of persons.
"""

import logging
import os
import sys
from typing import TYPE_CHECKING, Final

import sentry_sdk
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.utils import event_from_exception

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

#: By these an error is found in Sentry, as in the logs.
_IDS: Final = ("order", "task", "request_id")


def start(dsn: str) -> None:
    """Report from now on what this process and its children log as an error."""
    _begin(dsn)
    # What a process of Celery's pool reported through the queue that it was forked with never left it.
    os.register_at_fork(after_in_child=lambda: _begin(dsn))


def _begin(dsn: str) -> None:
    """With a queue and a thread of this process's own."""
    sentry_sdk.init(
        dsn=dsn,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            LoggingIntegration(level=None, event_level=logging.ERROR),
            AtexitIntegration(callback=lambda pending, timeout: None),
        ],
        send_default_pii=False,
        before_send=_in_our_words,
    )


def _in_our_words(event: "Event", hint: "Hint") -> "Event":
    """The event of one of our log lines, which are dictionaries: its words, its ids to search by, its traceback."""
    record = hint.get("log_record")
    if record is None or not isinstance(record.msg, dict):
        return event
    told = dict(record.msg)
    event["logentry"] = {"message": told.pop("event")}
    event["tags"] = {name: told.pop(name) for name in _IDS if name in told}
    if told.pop("exc_info", None) and sys.exc_info()[0]:
        event["exception"] = event_from_exception(sys.exc_info())[0]["exception"]
    event["extra"] = told
    return event
