"""JSON log lines, one per event, from Django, Celery and our own code alike."""

import logging
from typing import Final

import structlog

from shop.tracing import tracing

#: What a client sent stands in the line, and may be as long as a request's head.
_FAULT_CHARACTERS: Final = 300

_SHARED: list[structlog.types.Processor] = [
    structlog.contextvars.merge_contextvars,
    *tracing.log_processors,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

structlog.configure(
    processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)


class FaultsOfClients(logging.Filter):
    """Of what Django logs about a client's fault, one short warning.

    Django logs a wrong Host, a form that is too large and the like as errors with a traceback, and a 403 as a warning
    with one. A scanner would fill the log, and Sentry, where errors are reported, with what no operator can repair.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if record.name.startswith("django.security.") or (
            record.name == "django.request" and getattr(record, "status_code", 500) < 500
        ):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args = record.getMessage()[:_FAULT_CHARACTERS], ()
            record.exc_info = None
        return True


def formatter() -> logging.Formatter:
    """The formatter that `settings.LOGGING` names."""
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,  # not before: error reports want the exception itself
            structlog.processors.JSONRenderer(),
        ],
        foreign_pre_chain=_SHARED,
    )
