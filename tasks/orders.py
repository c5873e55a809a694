"""What may be asked of a worker about orders, and what happens when it fails.

An order that ends is a task that succeeds, whatever its end, but for `failed`. A store that is away, or whose keys
somebody has broken, a lock or row that stays taken, a task that takes too long and a last attempt that may be at work
put the order back in line. Anything else is a bug: it is tried again too, because the order was promised an end, and
each try counts; the count ends in Redis (`MAX_ATTEMPTS`), which survives the process.
"""

import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from celery import Task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_process_init, worker_process_shutdown
from django.conf import settings
from structlog.contextvars import bind_contextvars, clear_contextvars

from shop import figures, pauses
from shop.domain import Order, Status
from shop.fulfilment import Busy, Held, Paused, Rules, cancel, fulfil
from shop.pauses import Part
from shop.stores import StoreUnavailable, redis_client
from shop.tracing import tracing
from workers.app import app
from workers.batching import Outcome, TryLater, Unhandled
from workers.fail_points import reach

log = structlog.get_logger()

#: Seconds between tries while a store is away: soon at first, then steadily; far below the visibility timeout, because a
#: task that waits is a message not acknowledged.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 4.0
#: Seconds for which a batch is held while fulfilment is paused. Two in turn stay below a batch's time limit.
PAUSE_PATIENCE_S = 1.0


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


def wait_s(retries: int) -> float:
    """Seconds before the next try, with jitter so that a crowd does not come back at once."""
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(retries, 10))
    return random.uniform(longest / 2, longest)


_arguments = msgspec.json.Decoder(tuple[tuple[Order], dict[str, Any], Any])


def fulfil_orders(bodies: Sequence[bytes]) -> list[Outcome]:
    """Bring many orders to their ends at once; the bodies are those of `fulfil_order`'s messages.

    Orders that meet a lock, or a product row that another transaction holds, stay queued. What is no order of ours, or can't
    be confirmed or rejected, is left to `fulfil_order`, which says what is wrong with it, and so is the last of several
    attempts. Raises `TryLater` where a store is unavailable.
    """
    reach("worker.received")
    orders = [_order_in(body) for body in bodies]
    sound = [order for order in orders if order]
    try:
        in_company = Rules(lock_wait_s=0, is_alone=False)
        outcomes = fulfil(sound, client=redis_client(), rules=in_company, forgives=(SoftTimeLimitExceeded,))
    except StoreUnavailable as away:
        raise TryLater(str(away)) from away
    except Paused as paused:
        _wait_for_end_of_pause()
        raise TryLater(str(paused), rest_s=0) from paused
    if settings.LOG_ORDERS:
        for order in sound:
            _tell_end(order, outcomes[order.id])
    return [_answer(outcomes[order.id]) if order else Unhandled.ALONE for order in orders]


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


def _answer(outcome: Status | Busy | Held) -> Outcome:
    if isinstance(outcome, Busy):
        return Unhandled.IN_LINE
    return Unhandled.ALONE if isinstance(outcome, Held) or outcome is Status.FAILED else outcome.value


@app.task(
    name="tasks.orders.fulfil_order",
    bind=True,
    max_retries=None,
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
    except StoreUnavailable as away:
        raise again(self, away) from away
    except Paused as paused:
        _wait_for_end_of_pause()
        raise again(self, paused, countdown_s=0) from paused
    except SoftTimeLimitExceeded as late:
        raise again(self, late) from late
    except Exception as bug:
        log.exception("fulfilment failed")
        raise again(self, bug) from bug
    finally:
        clear_contextvars()
    if settings.LOG_ORDERS:
        _tell_end(order, outcome)
    if isinstance(outcome, Busy):
        raise again(self, TimeoutError(f"{outcome.sku} stays locked"))
    if isinstance(outcome, Held):
        raise again(self, outcome.by)
    if outcome is Status.FAILED:
        raise OrderFailed(order.id)
    return outcome.value


@app.task(name="tasks.orders.cancel_order", bind=True, max_retries=None)
def cancel_order(self: "Task[Any, Any]", order_id: str) -> str:
    """Cancel an order that was confirmed. Returns its status."""
    bind_contextvars(order=order_id, task=self.request.id)
    try:
        outcome = cancel(order_id, client=redis_client())
        if settings.LOG_ORDERS:
            log.info("cancellation done", status=str(outcome))
    except (StoreUnavailable, SoftTimeLimitExceeded) as away:
        raise again(self, away) from away
    except Exception:
        log.exception("cancellation failed")
        raise
    finally:
        clear_contextvars()
    return outcome.value if isinstance(outcome, Status) else Status.QUEUED.value


def _wait_for_end_of_pause() -> None:
    """Hold what is in hand for a moment, so that it goes on at once when the pause ends, and is not fetched for ever."""
    with suppress(StoreUnavailable):
        pauses.wait_for_end(redis_client(), Part.FULFILMENT, at_most_s=PAUSE_PATIENCE_S)


def again(task: "Task[Any, Any]", reason: Exception, countdown_s: float | None = None) -> Exception:
    """What a task raises to be put back in line; it shows as RETRY, with the reason, in Flower."""
    countdown_s = wait_s(task.request.retries) if countdown_s is None else countdown_s
    return task.retry(exc=reason, countdown=countdown_s, throw=False)
