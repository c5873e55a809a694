"""What Prometheus may ask: counts of this process, and the state of the queue."""

from functools import cache

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from shop import keys
from shop.intake import Intake
from shop.stores import StoreUnavailable, store_faults, web_redis
from shop.web.http import Answer, Request
from shop.web.problems import require_method

registry = CollectorRegistry()
_requests = Counter(
    "reserva_http_requests", "API requests answered by this process.", ["method", "status"], registry=registry
)
_intake = Counter(
    "reserva_intake", "What became of orders posted to this process.", ["outcome"], registry=registry
)
_up = Gauge("reserva_redis_up", "Whether Redis answered this scrape.", registry=registry)
_open = Gauge("reserva_open_orders", "Orders accepted and without a final state.", registry=registry)
_queue = Gauge("reserva_queue_messages", "Messages of orders waiting for a worker.", registry=registry)
_reservations = Gauge("reserva_open_reservations", "Reservations not settled yet.", registry=registry)


_METHODS = {"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}


def count_request(method: str, status: int) -> None:
    """Count an answered request."""
    _of_requests(method if method in _METHODS else "other", status).inc()


def count_intake(answer: Intake) -> None:
    """Count what became of an order that was posted."""
    _of_intake(type(answer).__name__).inc()


@cache
def _of_requests(method: str, status: int) -> Counter:
    return _requests.labels(method, str(status))


@cache
def _of_intake(outcome: str) -> Counter:
    return _intake.labels(outcome.lower())


async def metrics(request: Request) -> Answer:
    """`GET /metrics`"""
    require_method(request.method, "GET", "HEAD")
    try:
        with store_faults():
            pipe = web_redis().pipeline(transaction=False)
            pipe.zcard(keys.OPEN_ORDERS)
            pipe.llen(keys.ORDER_QUEUE)
            pipe.hlen(keys.RESERVATIONS)
            open_orders, waiting, reservations = await pipe.execute()
        _open.set(open_orders)
        _queue.set(waiting)
        _reservations.set(reservations)
        _up.set(1)
    except StoreUnavailable:
        _up.set(0)
    return Answer(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
