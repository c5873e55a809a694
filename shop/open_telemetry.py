"""Traces of orders, sent over OTLP/HTTP by the SDK of OpenTelemetry and as its own variables say (`OTEL_*`).

A trace has the request that took the order in, `wait in line`, and `fulfil order`, which tells how it ended. Batches that
worked on it are `fulfil batch`, with a span for each step, in the trace of the first order in them that has one; all others
are linked to it, and it to them. What did not get an order any further (a lock that another holds, a pause) leaves no span.

Nothing of persons is in it: no client, customer, reference or key, and no message of an exception, which may quote them.
See ARCHITECTURE.md, Note [Traces].
"""

import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import msgspec
import structlog
from django.urls import Resolver404
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shop.domain import Order, Reason, Status
from shop.routes import resolved

#: How long a process that ends may send what it has not sent yet. Web processes and workers have little more time.
CLOSE_S: Final = 2.0

_w3c = TraceContextTextMapPropagator()
_HEADERS: Final = ("traceparent", "tracestate")


@dataclass
class _Batch:
    """A batch that is being worked on. Times are nanoseconds of Unix time."""

    span: Span
    contexts: Mapping[str, Context]
    begun_at: int
    steps: list[tuple[str, int, int]] = field(default_factory=list)
    ends: list[tuple[Order, Status, Reason | None]] = field(default_factory=list)


_batch: ContextVar[_Batch | None] = ContextVar("batch", default=None)


class OpenTelemetry:
    """As `shop.tracing.Untraced`, told to OpenTelemetry."""

    def __init__(self) -> None:
        self._service = "reserva-worker"
        self.log_processors: Sequence[structlog.types.Processor] = (_add_ids,)

    @cached_property
    def _provider(self) -> TracerProvider:
        """A process's own: its thread would not live on in what a worker forks."""
        resource = Resource.create({"service.name": self._service}).merge(OTELResourceDetector().detect())
        # The SDK's own way at exit waits for half a minute and more where nobody answers.
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return provider

    @cached_property
    def _tracer(self) -> Tracer:
        return self._provider.get_tracer("reserva")

    def begin(self) -> None:
        """Set up the SDK, which takes a tenth of a second, before the first order waits for it."""
        _ = self._tracer

    def close(self) -> None:
        """Send what is left, within `CLOSE_S`."""
        if "_provider" in self.__dict__:
            closing = threading.Thread(target=self._provider.shutdown, daemon=True)
            closing.start()
            closing.join(CLOSE_S)

    # --- web --------------------------------------------------------------------------------------

    def served(self, application: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        """The application, with a span for each POST, in the trace of the client that has one."""
        self._service = "reserva-web"

        async def traced(request: Any) -> Any:
            span = self._of_request(request) if request.method == "POST" else trace.INVALID_SPAN
            if not span.is_recording():
                return await application(request)
            with trace.use_span(
                span, end_on_exit=True, record_exception=False, set_status_on_exception=False
            ):
                answer = await application(request)
                _note_answer(span, answer.status_code)
                return answer

        return traced

    def _of_request(self, request: Any) -> Span:
        # One sent twice is joined: that is what a tracestate wants, and no traceparent any more.
        sent = {name: request.header(name.encode()) for name in _HEADERS if request.sent(name.encode())}
        attributes = {"http.request.method": "POST"}
        name = "POST"
        if route := _route(request.path):
            attributes["http.route"] = route
            name = f"POST {route}"
        return self._tracer.start_span(
            name, context=_w3c.extract(sent), kind=SpanKind.SERVER, attributes=attributes
        )

    def attached(self, order: Order) -> Order:
        """The order with the request's trace, where that is recorded."""
        if not trace.get_current_span().is_recording():
            return order
        carrier: dict[str, str] = {}
        _w3c.inject(carrier)
        return msgspec.structs.replace(order, trace=carrier["traceparent"])

    def taken_in(self, answer: str, order_id: str) -> None:
        """Say so in the request's span."""
        span = trace.get_current_span()
        span.set_attribute("reserva.intake", answer)
        if order_id:
            span.set_attribute("reserva.order.id", order_id)

    # --- worker -----------------------------------------------------------------------------------

    @contextmanager
    def batch(self, orders: Sequence[Order], *, untold: type[Exception]) -> Iterator[None]:
        """A span of the batch, and of those of its orders that have a trace and ended in it."""
        contexts = dict(_traced(orders))
        if not contexts:
            yield
            return
        first, *others = contexts.values()
        span = self._tracer.start_span(
            "fulfil batch",
            context=first,
            kind=SpanKind.CONSUMER,
            links=[Link(_bearer(context)) for context in others],
            attributes={
                "messaging.system": "celery",
                "messaging.operation.type": "process",
                "messaging.destination.name": "orders",
                "messaging.batch.message_count": len(orders),
            },
        )
        batch = _Batch(span=span, contexts=contexts, begun_at=time.time_ns())
        token = _batch.set(batch)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        except Exception as error:
            if not isinstance(error, untold):
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__qualname__)
                self._tell(batch)
            raise
        else:
            if batch.ends:
                self._tell(batch)
        finally:
            _batch.reset(token)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A span within that of the batch."""
        batch = _batch.get()
        begun_at = time.time_ns()
        try:
            yield
        finally:
            if batch:
                batch.steps.append((name, begun_at, time.time_ns()))

    def ended(self, ends: Iterable[tuple[Order, Status, Reason | None]]) -> None:
        """Spans of the orders' waiting and fulfilment."""
        if batch := _batch.get():
            batch.ends += (end for end in ends if end[0].id in batch.contexts)

    def _tell(self, batch: _Batch) -> None:
        ended_at = time.time_ns()
        inside = trace.set_span_in_context(batch.span, Context())
        for name, begun_at, done_at in batch.steps:
            self._tracer.start_span(name, context=inside, start_time=begun_at).end(done_at)
        links = [Link(batch.span.get_span_context())]
        for order, status, reason in batch.ends:
            context = batch.contexts[order.id]
            # The clocks of a web process and a worker differ: nothing ends before it began.
            waits_since = min(order.accepted_at_ms * 1_000_000, batch.begun_at)
            waiting = self._tracer.start_span("wait in line", context=context, start_time=waits_since)
            waiting.end(batch.begun_at)
            span = self._tracer.start_span(
                "fulfil order", context=context, links=links, start_time=batch.begun_at
            )
            span.set_attribute("reserva.order.id", order.id)
            span.set_attribute("reserva.order.lines", len(order.lines))
            span.set_attribute("reserva.order.status", status.value)
            if reason:
                span.set_attribute("reserva.order.reason", reason.code.value)
            if status is Status.FAILED:
                span.set_status(StatusCode.ERROR)
            span.end(ended_at)
        batch.span.end(ended_at)


def _route(path: str) -> str:
    """The pattern that a path is served by, '' where it is served by none: names in it stand for what is in the path."""
    try:
        return f"/{resolved(path).route}"
    except Resolver404:
        return ""


def _note_answer(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)


def _traced(orders: Sequence[Order]) -> Iterator[tuple[str, Context]]:
    """The orders that have a trace, by id. A message from elsewhere may have anything in its place."""
    for order in orders:
        if order.trace:
            context = _w3c.extract({"traceparent": order.trace}, Context())
            if _bearer(context).is_valid:
                yield order.id, context


def _bearer(context: Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


def _add_ids(_: Any, __: str, told: structlog.types.EventDict) -> structlog.types.EventDict:
    """The ids of the span within which a line is logged, unless the line has its own."""
    bearer = trace.get_current_span().get_span_context()
    if bearer.is_valid and "trace_id" not in told:
        told["trace_id"] = trace.format_trace_id(bearer.trace_id)
        told["span_id"] = trace.format_span_id(bearer.span_id)
    return told
