"""What may be asked of a worker about orders, and what happens when it fails.

An order that ends is a task that succeeds, whatever its end, but for `failed`. A store that is unavailable, or whose keys
somebody has broken, a pause, a lock or row that stays taken, a task that takes too long and a last attempt that may be at
work park the order. Anything else is a bug: it is tried again too, because the order was promised an end, and each try
counts; the count ends in Redis (`MAX_ATTEMPTS`), which survives the process.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from celery import Task
from celery.exceptions import Retry, SoftTimeLimitExceeded
from celery.signals import worker_process_init, worker_process_shutdown
from django.conf import settings
from structlog.contextvars import bind_contextvars, clear_contextvars

from shop import figures, keys
from shop.domain import Order, Status
from shop.fulfilment import Busy, Held, Paused, Rules, cancel, fulfil
from shop.queue import BROKER_IS_LEDGER, CANCEL_TASK, FULFIL_TASK
from shop.stores import RowHeld, StoreUnavailable, redis_client
from shop.tracing import tracing
from workers.app import app
from workers.batching import Outcome, Unhandled, Wait
from workers.fail_points import reach
from workers.transport import Park

log = structlog.get_logger()


@worker_process_init.connect
def be_ready(**_: Any) -> None:
    """Make what this process has of its own, before the first order waits for it."""
    tracing.begin()


@worker_process_shutdown.connect
def tell_figures(**_: Any) -> None:
    """Have what this process counted last told before it ends, and what it traced."""
    figures.tally.tell()
    tracing.close()


class OrderFailed(Exception):
    """The order ended as `failed`: it was tried too often. It holds no units."""


class NotAnOrder(Exception):
    """The message holds no order of ours; it is dropped, because no try can make it one."""


_arguments = msgspec.json.Decoder(tuple[tuple[Order], dict[str, Any], Any])


def fulfil_orders(bodies: Sequence[bytes]) -> list[Outcome]:
    """Bring many orders to their ends at once; the bodies are those of `fulfil_order`'s messages.

    Orders that meet a lock, or a product row that another transaction holds, stay queued. What is no order of ours, or can't
    be confirmed or rejected, is left to `fulfil_order`, which says what is wrong with it, and so is the last of several
    attempts. Where a store is unavailable or fulfilment is paused, all stay queued until an order gets through.
    """
    reach("worker.received")
    orders = [_order_in(body) for body in bodies]
    sound = [order for order in orders if order]
    try:
        in_company = Rules(is_alone=False)
        outcomes = fulfil(sound, client=redis_client(), rules=in_company, forgives=(SoftTimeLimitExceeded,))
    except (StoreUnavailable, Paused) as reason:
        if isinstance(reason, StoreUnavailable):
            log.warning("orders parked", orders=len(sound), reason=str(reason))
        return [_parked_with_others(order) if order else Unhandled.ALONE for order in orders]
    if settings.LOG_ORDERS:
        for order in sound:
            _tell_end(order, outcomes[order.id])
    return [_answer(order, outcomes[order.id]) if order else Unhandled.ALONE for order in orders]


def _tell_end(order: Order, outcome: Status | Busy | Held) -> None:
    """One line for an order that ended; others go on, and a failed one is told of by `OrderFailed`."""
    if isinstance(outcome, Status) and outcome is not Status.FAILED:
        trace = {"trace_id": order.trace_id} if order.trace_id else {}
        log.info("order ended", order=order.id, task=order.id, status=outcome.value, **trace)


def _order_in(body: bytes) -> Order | None:
    try:
        order = _arguments.decode(body)[0][0]
    except msgspec.DecodeError:
        return None
    return order if order.is_sound() else None


def _answer(order: Order, outcome: Status | Busy | Held) -> Outcome:
    if isinstance(outcome, Busy):
        return _parked(order, outcome)
    return Unhandled.ALONE if isinstance(outcome, Held) or outcome is Status.FAILED else outcome.value


def _parked_with_others(order: Order) -> Park:
    return Park.until_over(FULFIL_TASK, order.accepted_at_ms)


def _parked(order: Order, busy: Busy) -> Park:
    """Who waits for a lock comes back when it is released; nobody tells when a row is, or which lock in another Redis."""
    if busy.is_locked and BROKER_IS_LEDGER:
        return Park(keys.lock(busy.sku), order.accepted_at_ms, 0)
    return Park.until_over(keys.lock(busy.sku), order.accepted_at_ms)


@app.task(
    name="tasks.orders.fulfil_order",
    bind=True,
    Request="workers.batching:Request",
    Strategy="workers.batching:strategy",
    batch=staticmethod(fulfil_orders),
)
def fulfil_order(self: "Task[Any, Any]", document: dict[str, Any]) -> str:
    """Bring an order to its end. Returns its status."""
    try:
        order = msgspec.convert(document, Order)
    except msgspec.ValidationError as error:
        raise NotAnOrder(str(error)) from error
    if not order.is_sound():
        raise NotAnOrder("no order that the API would accept")
    bind_contextvars(order=order.id, task=self.request.id)
    try:
        reach("worker.received")
        outcome = fulfil([order], client=redis_client(), forgives=(SoftTimeLimitExceeded,))[order.id]
    except (StoreUnavailable, Paused) as reason:
        raise Retry(exc=Wait(repr(reason), _parked_with_others(order))) from reason
    except SoftTimeLimitExceeded as reason:
        raise later(reason) from reason
    except Exception as bug:
        log.exception("fulfilment failed")
        raise later(bug) from bug
    finally:
        clear_contextvars()
    if settings.LOG_ORDERS:
        _tell_end(order, outcome)
    if isinstance(outcome, Busy):
        raise Retry(exc=Wait(f"{outcome.sku} is locked", _parked(order, outcome)))
    if isinstance(outcome, Held):
        raise later(outcome.by)
    if outcome is Status.FAILED:
        raise OrderFailed(order.id)
    return outcome.value


@app.task(name="tasks.orders.cancel_order", bind=True, Request="workers.batching:Request")
def cancel_order(self: "Task[Any, Any]", order_id: str) -> str:
    """Cancel an order that was confirmed. Returns its status."""
    bind_contextvars(order=order_id, task=self.request.id)
    try:
        outcome = cancel(order_id, client=redis_client())
        if settings.LOG_ORDERS:
            log.info("cancellation done", status=str(outcome))
    except (RowHeld, SoftTimeLimitExceeded) as reason:
        raise later(reason) from reason
    except StoreUnavailable as away:
        raise Retry(exc=Wait(repr(away), Park.until_over(CANCEL_TASK, round(time.time() * 1000)))) from away
    except Exception:
        log.exception("cancellation failed")
        raise
    finally:
        clear_contextvars()
    return outcome.value if isinstance(outcome, Status) else Status.QUEUED.value


def later(reason: Exception) -> Retry:
    """What a task raises to be run again in a while; it shows as RETRY, with the reason, in Flower."""
    return Retry(exc=Wait(repr(reason)))
