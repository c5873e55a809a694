"""A place that spans are sent to, and what it makes of them; and orders whose clients are traced themselves."""

import gzip
import secrets
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from shop.stores import redis_client
from tests.running import Answer, System


@dataclass(frozen=True, kw_only=True)
class Told:
    """A span as it was sent. Ids are hex; `parent` is '' for none; times are nanoseconds of Unix time."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    begun: int
    ended: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    is_error: bool


@dataclass(kw_only=True)
class Collector:
    """What came so far. `raw`: the bodies, not compressed."""

    url: str
    raw: list[bytes] = field(default_factory=list)
    spans: list[Told] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """What makes a process send its spans here, and soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "no_proxy": "*",
        }

    def named(self, name: str, trace: str = "") -> list[Told]:
        """The spans of this name, of one trace or of all."""
        return [span for span in self.spans if span.name == name and trace in ("", span.trace)]

    def of_order(self, order_id: str) -> list[Told]:
        """The spans that tell how an order ended."""
        return self._about(order_id, "fulfil order")

    def of_request(self, order_id: str) -> list[Told]:
        """The spans of requests that were answered with the order."""
        return self._about(order_id, "POST /api/v1/orders")

    def _about(self, order_id: str, name: str) -> list[Told]:
        return [span for span in self.named(name) if span.attributes.get("reserva.order.id") == order_id]

    def take(self, body: bytes) -> None:
        """Note what a request holds."""
        self.raw.append(body)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _attributes(of_resource.resource)["service.name"]
            for of_scope in of_resource.scope_spans:
                self.spans += [_told(service, span) for span in of_scope.spans]


def _attributes(bearer: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in bearer.attributes}


def _told(service: str, span: Any) -> Told:
    return Told(
        service=service,
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        begun=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        attributes=_attributes(span),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
    )


@contextmanager
def a_collector() -> Iterator[Collector]:
    """One that takes OTLP over HTTP."""

    class Intake(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            collector.take(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Intake) as server:
        collector = Collector(url=f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def a_system(folder: Path, collector: Collector, **env: str) -> Iterator[System]:
    """A system that tells the collector of its orders. It is not started."""
    redis_client().flushdb()
    with System(folder, {**collector.env, **env}) as system:
        yield system


def a_client_s_trace(*, is_sampled: bool = True) -> tuple[str, str, str]:
    """The trace and the span of a client that is about to order, and the header that tells of them."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, f"00-{trace}-{span}-{'01' if is_sampled else '00'}"


def placed(system: System, sku: str, units: int = 1, traceparent: str = "", key: str = "") -> Answer:
    """An order of a client that is traced itself, if it says so."""
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    if traceparent:
        headers["traceparent"] = traceparent
    return system.send("POST", "/api/v1/orders", {"items": [{"sku": sku, "quantity": units}]}, headers)


def the(spans: Sequence[Told]) -> Told:
    """The only one of them."""
    (span,) = spans
    return span
