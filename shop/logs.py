"""JSON log lines, one per event, from Django, Celery and our own code alike."""

import logging

import structlog

from shop.tracing import tracing

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
