"""What Prometheus may ask. Every web process answers for the whole system: all figures are in Redis (`shop.figures`)."""

import asyncio
import platform
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from shop import figures, system_state
from shop.domain import ReasonCode, Status
from shop.figures import Histogram
from shop.pauses import Part
from shop.replacements import REPLACED
from shop.stores import StoreUnavailable, web_thread_redis
from shop.system_state import SystemState
from shop.web.http import Answer, Request
from shop.web.problems import require_method

#: Of the API, not of the software: what clients see.
API_VERSION: Final = "1.0.0"

_TO_COME: Final = (
    *(f"{figures.INTAKE}{outcome}" for outcome in ("accepted", "replayed", "reused", "rate_limited")),
    *(f"{figures.INTAKE}{outcome}" for outcome in ("queue_full", "paused", "unavailable")),
    *(f"{figures.ENDED}{status}:" for status in (Status.CONFIRMED, Status.CANCELLED)),
    *(
        f"{figures.ENDED}{Status.REJECTED}:{code}"
        for code in (ReasonCode.INSUFFICIENT_STOCK, ReasonCode.UNKNOWN_SKU)
    ),
    f"{figures.ENDED}{Status.FAILED}:{ReasonCode.TOO_MANY_ATTEMPTS}",
    *(f"{figures.HTTP}{method}:500" for method in ("GET", "HEAD", "POST")),
    *(
        f"{REPLACED}{part}:{cause}"
        for part in ("web", "worker", "scheduler", "flower")
        for cause in ("ended", "silent")
    ),
)
_METHODS = {"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}


def count_request(method: str, status: int) -> None:
    """Count an answered request."""
    # Not the method as it was sent: a client could have any number of names remembered.
    figures.tally.add(_of_request(method if method in _METHODS else "other", status))


@cache
def _of_request(method: str, status: int) -> str:
    return f"{figures.HTTP}{method}:{status}"


def count_refusal(reason: str) -> None:
    """Count an order that never got as far as the intake."""
    figures.tally.add(figures.INTAKE + reason)


async def metrics(request: Request) -> Answer:
    """`GET /metrics`"""
    require_method(request.method, "GET", "HEAD")
    return Answer(await asyncio.to_thread(_text), content_type=CONTENT_TYPE_LATEST)


def _text() -> bytes:
    try:
        found = _all(system_state.look(web_thread_redis()), figures.totals(web_thread_redis()))
    except StoreUnavailable:
        found = [GaugeMetricFamily("reserva_redis_up", "Whether Redis answered this scrape.", 0)]
    return generate_latest(_Found([*found, _build()]))


class _Found:
    """Metrics as prometheus_client wants to be given them."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def _build() -> Metric:
    return InfoMetricFamily(
        "reserva_build",
        "What runs here.",
        {"api_version": API_VERSION, "python": platform.python_version()},
    )


def _all(state: SystemState, counted: Mapping[str, int]) -> list[Metric]:
    return [
        GaugeMetricFamily("reserva_redis_up", "Whether Redis answered this scrape.", 1),
        *_counters(counted),
        _histogram(
            figures.ORDER_MS,
            counted,
            name="reserva_order_seconds",
            text="From the acceptance of an order to its first final state.",
            scale=1000,
        ),
        _histogram(
            figures.BATCH_ORDERS,
            counted,
            name="reserva_batch_orders",
            text="Orders that a worker took together.",
        ),
        *_gauges(state),
        *_of_pauses(state),
        *_of_workers(state),
        *_of_reconcile(state),
    ]


def _counters(counted: Mapping[str, int]) -> Iterator[Metric]:
    yield _by_label(
        counted,
        figures.INTAKE,
        CounterMetricFamily("reserva_intake", "What became of orders that were posted.", labels=["outcome"]),
    )
    yield _by_label(
        counted,
        figures.ENDED,
        CounterMetricFamily(
            "reserva_orders_ended",
            "Orders that came to a final state; one that is cancelled after it was confirmed came to two.",
            labels=["status", "reason"],
        ),
    )
    yield _by_label(
        counted,
        figures.HTTP,
        CounterMetricFamily(
            "reserva_http_requests",
            "Requests answered, for the API and for pages.",
            labels=["method", "status"],
        ),
    )
    yield _by_label(
        counted,
        REPLACED,
        CounterMetricFamily(
            "reserva_process_replacements",
            "Processes that ended or showed no sign of life, and were replaced.",
            labels=["part", "cause"],
        ),
    )
    for name, text, field in (
        ("reserva_units_sold", "Units in confirmed orders.", figures.UNITS_SOLD),
        (
            "reserva_lock_waits",
            "How often an order met a lock or a product row that was held.",
            figures.LOCK_WAITS,
        ),
    ):
        yield CounterMetricFamily(name, text, counted.get(field, 0))


def _by_label(counted: Mapping[str, int], prefix: str, family: CounterMetricFamily) -> Metric:
    """What is known to come is told as 0 until it does: the growth from nothing to one is growth, too."""
    for field in sorted({*counted, *_TO_COME}):
        if field.startswith(prefix):
            family.add_metric(field.removeprefix(prefix).split(":"), counted.get(field, 0))
    return family


def _histogram(
    histogram: Histogram, counted: Mapping[str, int], *, name: str, text: str, scale: int = 1
) -> Metric:
    """`scale`: how many of the histogram's unit are one of the metric's."""
    bounds = [str(float(bound / scale)) for bound in histogram.bounds]
    buckets = list(zip([*bounds, "+Inf"], accumulate(histogram.counts(counted)), strict=True))
    family = HistogramMetricFamily(name, text)
    family.add_metric([], buckets, histogram.total(counted) / scale)
    return family


def _gauges(state: SystemState) -> Iterator[Metric]:
    gauges: dict[str, tuple[str, float | None]] = {
        "reserva_open_orders": ("Orders accepted and without a final state.", state.open_orders),
        "reserva_open_cancellations": ("Orders to be cancelled.", state.cancelling),
        "reserva_queue_messages": ("Messages of orders waiting for a worker.", state.waiting),
        "reserva_queue_oldest_seconds": (
            "How long the order that is next in line has waited; 0 where none waits.",
            state.oldest_s or 0.0,
        ),
        "reserva_messages_in_hand": ("Messages that workers have fetched and not finished.", state.in_hand),
        "reserva_messages_parked": (
            "Messages that wait for a lock, a row, a store or a while.",
            state.parked,
        ),
        "reserva_housekeeping_messages": ("Messages of housekeeping that wait.", state.housekeeping),
        "reserva_unreadable_messages": ("What was on a queue and is no message.", state.unreadable),
        "reserva_workers": (
            "Workers that could take orders within the last 10 s, by their heartbeats.",
            None if state.workers is None else len(state.workers),
        ),
        "reserva_sweeper_age_seconds": (
            "Age of the last sweep; there is none where it is older than 30 s.",
            state.swept_s,
        ),
        "reserva_redis_memory_used_bytes": (
            "Memory of Redis that counts against its limit.",
            None if state.memory is None else state.memory.used_bytes,
        ),
        "reserva_redis_memory_watermark_bytes": (
            "From here on new orders are refused; there is none where nothing refuses them.",
            None if state.memory is None else state.memory.watermark_bytes,
        ),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(name, text, value)


def _of_pauses(state: SystemState) -> Iterator[Metric]:
    paused = GaugeMetricFamily("reserva_paused", "Whether a part of the system is paused.", labels=["part"])
    for part in Part:
        paused.add_metric([part], part in state.pauses)
    yield paused


def _of_workers(state: SystemState) -> Iterator[Metric]:
    ages = GaugeMetricFamily(
        "reserva_worker_heartbeat_age_seconds", "Age of its heartbeat.", labels=["worker"]
    )
    for worker, age_s in sorted((state.workers or {}).items()):
        ages.add_metric([worker], age_s)
    yield ages


def _of_reconcile(state: SystemState) -> Iterator[Metric]:
    verdict = state.reconcile
    if verdict is None:
        return
    of_last: dict[str, tuple[str, Any]] = {
        "reserva_reconcile_timestamp_seconds": ("When the last reconcile ended.", verdict.at_ms / 1000),
        "reserva_reconcile_clean": ("Whether it left nothing that differs.", int(verdict.clean)),
        "reserva_reconcile_differences": ("Differences that it found and did not mend.", verdict.left),
        "reserva_oversold_skus": ("SKUs of which more is confirmed than was on sale.", verdict.oversold),
    }
    for name, (text, value) in of_last.items():
        yield GaugeMetricFamily(name, text, value)
