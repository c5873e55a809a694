"""The sweeper: whatever an order waits for and nobody does any more, because somebody died, is set going again.

It only repeats steps that are safe to repeat, so a sweep too many costs time and nothing else.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import structlog
from django.conf import settings

from shop import books, clients, continuity, fulfilment, keys, pauses, queue, scripts, stock
from shop.domain import Order, Status
from shop.pauses import Part
from shop.stores import BrokenKey, RowHeld, StoreUnavailable, TextRedis, rows, store_faults
from workers.fail_points import reach

log = structlog.get_logger()

#: Orders looked at in one go.
SWEEP_BATCH = 500
#: For how long one sweep enqueues, in seconds: shorter than a task may take.
ENQUEUE_S = 4.0
#: So many messages at the head of the line are looked at for an order: some are cancellations, or garbage.
HEAD_MESSAGES = 20
#: A cancellation asked for so long ago lost its message.
CANCEL_AFTER_MS = 5_000
HEARTBEAT_TTL_S = 30
#: How far a moment may lie beyond what this process's clock could have set, before it is taken for another clock's.
CLOCK_SLACK_MS = 5_000

_document = msgspec.json.Decoder(Order)


def sweep(client: TextRedis) -> dict[str, int]:
    """One sweep: how many orders were enqueued again and cancelled.

    Raises `StoreUnavailable`, and `ExceptionGroup` at the end where a part failed for a reason of its own (a key that
    somebody has broken): the others are done all the same, and the sweeper's heartbeat stops.
    """
    now_ms = int(time.time() * 1000)
    failures: list[Exception] = []
    found: dict[str, int] = {}
    with _apart(failures):
        continuity.mind(client)
    with _apart(failures):
        mind_clocks(client, now_ms)
    with _apart(failures):
        found["enqueued"] = enqueue_due(client, now_ms)
    with _apart(failures):
        found["cancelled"] = cancel_overdue(client, now_ms)
    with _apart(failures):
        publish_recent_stock(client)
    with _apart(failures):
        clients.publish_keys()
    if any(found.values()):
        log.info("swept", **found)
    if failures:
        raise ExceptionGroup("parts of the sweep failed", failures)
    with store_faults():
        client.set(keys.SWEEPER_HEARTBEAT, now_ms, ex=HEARTBEAT_TTL_S)
    return found


@contextmanager
def _apart(failures: list[Exception]) -> Iterator[None]:
    """What fails in the block keeps nothing else from being done, unless a store is away: then nothing can be."""
    try:
        yield
    except (BrokenKey, RowHeld) as failure:
        failures.append(failure)
    except StoreUnavailable:
        raise
    except Exception as failure:  # noqa: BLE001 - `sweep` raises it
        failures.append(failure)


@contextmanager
def _apart_told(what: str, order_id: str) -> Iterator[list[Exception]]:
    """`_apart` for what is done for one order."""
    failures: list[Exception] = []
    with _apart(failures):
        yield failures
    if failures:
        log.error(what, order=order_id, reason=repr(failures[0]))


def was_just_here(client: TextRedis) -> bool:
    """Whether a sweep has ended within the last second: wishes for sweeps pile up while no worker runs."""
    with store_faults():
        left_ms: int = client.pttl(keys.SWEEPER_HEARTBEAT)
    return left_ms > (HEARTBEAT_TTL_S - 1) * 1000


def mind_clocks(client: TextRedis, now_ms: int) -> None:
    """Bring near what a process whose clock is ahead, or ours before it was set back, put hours ahead in the journals."""
    with store_faults():
        for journal, latest_ms in (
            (keys.OPEN_ORDERS, now_ms + settings.SWEEP_AFTER_MS),
            (keys.CANCELLATIONS, now_ms),
        ):
            beyond = f"({latest_ms + CLOCK_SLACK_MS}"
            for order_id in client.zrangebyscore(journal, beyond, "+inf", start=0, num=SWEEP_BATCH):
                client.zadd(journal, {order_id: latest_ms}, xx=True)


def enqueue_due(client: TextRedis, now_ms: int) -> int:
    """Enqueue every open order that is overdue and has lost its message. While fulfilment is paused, all may be overdue.

    Slice by slice, for `ENQUEUE_S` at most: a broker that lost its queue is no reason to wait for the next sweeps.
    """
    if pauses.is_paused(client, Part.FULFILMENT):
        return 0
    with store_faults():
        head_ms = _head_enqueued_at_ms(client)
    until = time.monotonic() + ENQUEUE_S
    enqueued = 0
    while True:
        with store_faults():
            due: list[str] = client.zrangebyscore(keys.OPEN_ORDERS, "-inf", now_ms, start=0, num=SWEEP_BATCH)
        if due:
            enqueued += _enqueue_again(client, due, now_ms, head_ms)
        if len(due) < SWEEP_BATCH or time.monotonic() > until:
            return enqueued


def _head_enqueued_at_ms(client: TextRedis) -> int | None:
    """When the order at the head of the queue was enqueued; None for an empty queue, or one on another broker.

    The queue is first in, first out: an open order that was enqueued before its head is not in it. A long queue is no
    fault, and enqueueing all of it again would only make it longer.
    """
    if not queue.BROKER_IS_LEDGER:
        return None
    messages = reversed(client.lrange(keys.ORDER_QUEUE, -HEAD_MESSAGES, -1))
    return next((at_ms for at_ms in map(queue.enqueued_at_ms, messages) if at_ms is not None), None)


def enqueue_now(client: TextRedis, order_id: str) -> bool:
    """Enqueue an open order again, also a parked one; False where it has ended. Raises `StoreUnavailable`."""
    return _enqueue_again(client, [order_id], int(time.time() * 1000), None, parked_too=True) > 0


#: The members of an order's record that the sweeper reads.
_RECORD = ("document", "attempts", "enqueued_at")


class _Overdue(msgspec.Struct, frozen=True):
    """An open order that was not heard of for too long. `enqueued_at_ms`: when its newest message was, in Unix time."""

    order: Order
    attempts: int
    enqueued_at_ms: int

    @classmethod
    def of(cls, record: Sequence[Any]) -> "_Overdue":
        """From the members `_RECORD`. Raises `msgspec.DecodeError` or `ValueError` where they make no sense."""
        document, attempts, enqueued_at = record
        order = _document.decode(document)
        return cls(order, int(attempts or 0), int(enqueued_at or order.accepted_at_ms))

    def message(self, now_ms: int) -> str:
        """Its message, enqueued now; '' where the broker is not the orders' Redis.

        An order that was started and has not ended may kill its workers. It runs alone: in a batch its neighbours would die
        with it, and their attempts are counted too.
        """
        if not queue.BROKER_IS_LEDGER:
            return ""
        return queue.repeated_message(self.order, enqueued_at_ms=now_ms, alone=self.attempts > 0)


def _enqueue_again(
    client: TextRedis, order_ids: Sequence[str], now_ms: int, head_ms: int | None, parked_too: bool = False
) -> int:
    """Enqueue those of the orders that no worker has, not parked and not behind the head of the queue; returns how many."""
    next_look_ms = now_ms + settings.SWEEP_AFTER_MS
    lost: dict[str, _Overdue] = {}
    looks: dict[str, float] = {}
    found = _records(client, order_ids)
    for order_id, record, *elsewhere in zip(order_ids, found[::3], found[1::3], found[2::3], strict=True):
        # Whatever becomes of it: it must not stand before the others until the next sweep.
        looks[order_id] = next_look_ms
        with _apart_told("open order can't be enqueued again", order_id), store_faults():
            if isinstance(record, Exception):
                raise record
            if record[0] is None:
                _forget(client, order_id)
                continue
            overdue = _Overdue.of(record)
            # Where somebody has broken the key of those parked, none is.
            is_elsewhere = elsewhere[0] or (elsewhere[1] is True and not parked_too)
            if not is_elsewhere and (head_ms is None or overdue.enqueued_at_ms < head_ms):
                lost[order_id] = overdue
    with store_faults():
        client.zadd(keys.OPEN_ORDERS, looks, xx=True)
    return _requeue(client, lost, now_ms, next_look_ms)


def _records(client: TextRedis, order_ids: Sequence[str]) -> list[Any]:
    """Of each order, the members `_RECORD` of its record, or the error that Redis answers for a broken one; whether a
    worker has its message (`shop.queue` makes the delivery tag of the order's id); and whether that is parked."""
    with store_faults():
        pipe = client.pipeline(transaction=False)
        for order_id in order_ids:
            pipe.hmget(keys.order(order_id), *_RECORD)
            pipe.zscore(keys.UNACKED_INDEX, order_id)
            pipe.hexists(keys.PARKED, order_id)
        found: list[Any] = pipe.execute(raise_on_error=False)
    return found


def _requeue(client: TextRedis, lost: Mapping[str, _Overdue], now_ms: int, next_look_ms: int) -> int:
    if not lost:
        return 0
    args: list[Any] = [now_ms, next_look_ms]
    for order_id, overdue in lost.items():
        args += [order_id, overdue.message(now_ms)]
    reach("sweeper.before_requeue")
    with store_faults():
        still_open: list[str] = scripts.run(client, "requeue", [keys.OPEN_ORDERS, queue.broker_key()], args)
    if not queue.BROKER_IS_LEDGER:
        for order_id in still_open:
            queue.publish(queue.FULFIL_TASK, order_id, lost[order_id].order)
    return len(still_open)


def _forget(client: TextRedis, order_id: str) -> None:
    """Close an open order whose record somebody deleted. If it has not ended, there is nothing to go on with."""
    found = books.recorded([order_id])
    if not found:
        log.error("open order has no record, nothing can be done for it", order=order_id)
    client.zrem(keys.OPEN_ORDERS, order_id)


def cancel_overdue(client: TextRedis, now_ms: int) -> int:
    """Carry out cancellations whose message was lost. Those of queued orders wait for the order's own worker."""
    with store_faults():
        overdue = client.zrangebyscore(
            keys.CANCELLATIONS, "-inf", now_ms - CANCEL_AFTER_MS, start=0, num=SWEEP_BATCH
        )
    for order_id in overdue:
        is_done = False
        with _apart_told("order can't be cancelled", order_id), store_faults():
            status = fulfilment.cancel(order_id, client=client)
            # One that PostgreSQL has lost comes back, if Redis knows it; else nobody does.
            is_done = status is not Status.QUEUED or not client.exists(keys.order(order_id))
        with store_faults():
            if is_done:
                client.zrem(keys.CANCELLATIONS, order_id)
            else:
                # Its own worker will see to it, or nobody can. It must not stand before those that nobody sees to.
                client.zadd(keys.CANCELLATIONS, {order_id: now_ms}, xx=True)
    return len(overdue)


def publish_recent_stock(client: TextRedis) -> None:
    """Publish stock that changed a moment ago: the process that changed it may have died before Redis was told."""
    with store_faults():
        changed = [sku for (sku,) in rows("recent_stock")]
    stock.refresh(client, changed)
