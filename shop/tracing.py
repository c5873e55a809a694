"""One trace for each order, from its request to its end, where `OTEL_EXPORTER_OTLP_ENDPOINT` says who wants it.

`tracing` is told what happens, in any case. Without the variable it does nothing, and nothing of OpenTelemetry is loaded;
with it, it is `shop.open_telemetry`, which says what a trace looks like.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog
from django.conf import settings

from shop.domain import Order, Reason, Status

if TYPE_CHECKING:
    from shop.open_telemetry import OpenTelemetry

Application = Callable[[Any], Awaitable[Any]]
#: An order that came to its end, with its status and why it was not confirmed.
End = tuple[Order, Status, Reason | None]

log = structlog.get_logger()

_NOTHING = nullcontext()


class Untraced:
    """What is done where nobody wants traces. What is here is all that callers may ask of `tracing`."""

    #: What adds the ids of the trace that a log line belongs to.
    log_processors: Sequence[structlog.types.Processor] = ()

    def begin(self) -> None:
        """This process is about to take orders, or to work on them. It forks no more."""

    def served(self, application: Application) -> Application:
        """What answers requests of the web tier (`shop.web.http`), with a span for each that is to change something."""
        return application

    def attached(self, order: Order) -> Order:
        """The order, bearing the trace of the request that is being answered."""
        return order

    def taken_in(self, answer: str, order_id: str) -> None:
        """What became of the order of the request that is being answered. `order_id`: '' where there is none."""

    def batch(self, orders: Sequence[Order], *, untold: type[Exception]) -> AbstractContextManager[None]:
        """The block brings these orders to their ends, as far as it can. `untold`: it does nothing if it raises this."""
        return _NOTHING

    def step(self, name: str) -> AbstractContextManager[None]:
        """The block is a step of a batch."""
        return _NOTHING

    def ended(self, ends: Iterable[End]) -> None:
        """Orders of the batch have ended."""

    def close(self) -> None:
        """This process is about to end."""


#: Whether the variable asks for what is not installed.
_is_missing = False
tracing: "Untraced | OpenTelemetry" = Untraced()
if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
    try:
        from shop.open_telemetry import OpenTelemetry
    except ModuleNotFoundError:
        _is_missing = True
    else:
        tracing = OpenTelemetry()


def warn_if_missing() -> None:
    """Say that there will be no traces. The variable may be set for all of a platform: no reason to take no orders."""
    if _is_missing:
        log.warning("no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, and the extra `otel` is not installed")
