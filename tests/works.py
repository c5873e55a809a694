"""What processes of the system do, call by call, for tests that interrupt them between two calls."""

import base64
import itertools
import json
import time
from collections.abc import Callable

import msgspec
import redis

from shop import books, keys, queue, reconciliation, scripts, sweeper
from shop.domain import Order
from shop.fulfilment import Rules, cancel, fulfil
from shop.stores import store_faults

_hours = itertools.count(1)


def clock() -> Callable[[], float]:
    """A clock for `time.time` that shows another millisecond whenever somebody looks."""
    ticks = itertools.count(int(time.time() * 1000))
    return lambda: next(ticks) / 1000


def later_ms() -> int:
    """So late that the sweeper takes everybody for dead; later each time."""
    return int(time.time() * 1000) + 3_600_000 * next(_hours)


def accept(client: "redis.Redis", order: Order, key: str) -> str:
    """As `shop.intake` does; whether the order is new or known."""
    if known := books.recorded([order.id]):
        assert set(known) == {order.id}
        return "replayed"
    now_ms = int(time.time() * 1000)
    document = msgspec.json.encode(order)
    claim, record = keys.idempotency(order.client, key), keys.order(order.id)
    args = [now_ms, keys.DAY_S, 1000, 0, now_ms + 20_000, 1, "asked", order.fingerprint, order.client]
    args += [document, queue.fulfil_message_of(order.id, document), "", order.id]
    with store_faults():
        replies = scripts.run(client, "accept", [keys.OPEN_ORDERS, keys.ORDER_QUEUE, claim, "", record], args)
    ((outcome, *known_ids),) = replies
    assert (outcome, known_ids) in [("accepted", []), ("replayed", [order.id])]
    return str(outcome)


def ask_to_cancel(client: "redis.Redis", order: Order) -> str:
    """As `shop.cancellation` does."""
    known = books.recorded([order.id]).get(order.id)
    names = [keys.order(order.id), keys.CANCELLATIONS, keys.ORDER_QUEUE]
    args = [order.id, order.client, int(time.time() * 1000), queue.cancel_message(order.id)]
    with store_faults():
        return str(scripts.run(client, "request_cancel", names, [*args, known.status.value if known else ""]))


def do(client: "redis.Redis", message: str, rules: Rules) -> object:
    """As a worker does with one message."""
    decoded = json.loads(message)
    (argument,) = json.loads(base64.b64decode(decoded["body"]))[0]
    if decoded["headers"]["task"] == queue.CANCEL_TASK:
        return cancel(argument, client=client)
    return fulfil([msgspec.convert(argument, Order)], client=client, rules=rules)


HOUSEKEEPING: dict[str, Callable[["redis.Redis"], object]] = {
    "enqueue": lambda client: sweeper.enqueue_due(client, later_ms()),
    "cancel": lambda client: sweeper.cancel_overdue(client, later_ms()),
    "reconcile": lambda client: reconciliation.reconcile(client, repair=True),
}
