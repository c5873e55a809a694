"""The way from the shop to its workers: Celery messages, named by task, built without publishing.

A message is Celery's own. It is made once per task by Celery's and kombu's serialisers and kept as a template, because
filling in a template costs 5 microseconds where publishing costs 400, and because the accept script then pushes it in
the same step that records the order.
"""

import asyncio
import base64
import uuid
from functools import cache
from typing import Any

import msgspec
from django.conf import settings
from kombu import Connection
from kombu.exceptions import KombuError

from shop import keys
from shop.domain import STOREFRONT, Order
from shop.stores import StoreUnavailable
from workers.app import app

FULFIL_TASK = "tasks.orders.fulfil_order"
CANCEL_TASK = "tasks.orders.cancel_order"

#: Whether broker and order records are one Redis, so that one script can write both.
BROKER_IS_LEDGER: bool = settings.CELERY_BROKER_URL == settings.REDIS_URL

_json = msgspec.json.Encoder()
_ID = "00000000-0000-8000-8000-000000000000"


def published_message(task: str, queue: str) -> dict[str, Any]:
    """What Celery puts on the queue for `task` with the id `_ID` and no arguments, taken from an in-memory broker."""
    with Connection("memory://") as connection:
        channel: Any = connection.default_channel
        bound = app.amqp.queues[queue](channel)
        bound.declare()
        with app.amqp.Producer(channel) as producer:
            message = app.amqp.create_task_message(
                _ID,
                task,
                args=(),
                kwargs={},
                argsrepr=_ID,
                ignore_result=True,
                time_limit=app.conf.task_time_limit,
                soft_time_limit=app.conf.task_soft_time_limit,
            )
            app.amqp.send_task_message(producer, task, message, queue=queue, serializer="json")
        raw: dict[str, Any] = channel._get(queue)
        bound.delete()
        return raw


@cache
def _template(task: str, queue: str) -> str:
    """The message's JSON with `%(id)s`, `%(body)s` and `%(tag)s` where a task's own parts go."""
    message = published_message(task, queue)
    message["body"] = "\0(body)s"
    message["properties"]["delivery_tag"] = "\0(tag)s"
    # kombu matches tags in its own output with blanks after the colons; msgspec writes none, and nobody minds.
    text = _json.encode(message).decode().replace(_ID, "\\u0000(id)s")
    return text.replace("%", "%%").replace("\\u0000", "%")


def message(task: str, task_id: str, *args: Any, queue: str = keys.ORDER_QUEUE) -> str:
    """The message that makes a worker run `task(*args)` under the id `task_id`."""
    return _message(task, task_id, _json.encode(args), queue)


def _message(task: str, task_id: str, args: bytes, queue: str) -> str:
    body = b'[%s,{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]' % args
    parts = {"id": task_id, "body": base64.b64encode(body).decode(), "tag": task_id}
    return _template(task, queue) % parts


def fulfil_message(order: Order) -> str:
    """The message of an order; its task id is the order id, so that Flower finds it."""
    return fulfil_message_of(order.id, _json.encode(order))


def fulfil_message_of(order_id: str, document: bytes) -> str:
    """`fulfil_message` of an order that is JSON already."""
    return _message(FULFIL_TASK, order_id, b"[%s]" % document, keys.ORDER_QUEUE)


def repeated_message(order: Order, *, enqueued_at_ms: int, alone: bool) -> str:
    """The message of an order that lost its own. `alone`: marked so that a worker runs it by itself, outside any batch."""
    marked: dict[str, Any] = msgspec.json.decode(fulfil_message(order))
    marked["headers"] |= {"enqueued_at": enqueued_at_ms} | ({"redelivered": True} if alone else {})
    return _json.encode(marked).decode()


class _Headers(msgspec.Struct, frozen=True):
    enqueued_at: int | None = None


class _Message(msgspec.Struct, frozen=True):
    headers: _Headers
    body: str


_read = msgspec.json.Decoder(_Message)
_arguments = msgspec.json.Decoder(tuple[tuple[Order], dict[str, Any], Any])


def enqueued_at_ms(message: str) -> int | None:
    """When an order's message was enqueued, in Unix time; None for any other message."""
    try:
        found = _read.decode(message)
        (order,), *_ = _arguments.decode(base64.b64decode(found.body))
    except ValueError:
        return None
    return order.accepted_at_ms if found.headers.enqueued_at is None else found.headers.enqueued_at


def cancel_message(order_id: str) -> str:
    """The message that has an order cancelled. An order has two tasks then, under two ids."""
    return message(CANCEL_TASK, str(uuid.uuid4()), order_id)


def publish(task: str, task_id: str, *args: Any) -> None:
    """Send through Celery's own path, to a broker that is not the orders' Redis. Raises `StoreUnavailable`."""
    try:
        app.send_task(
            task,
            args=msgspec.to_builtins(args),
            task_id=task_id,
            argsrepr=task_id,
            ignore_result=True,
            retry=False,
        )
    except (KombuError, OSError) as error:
        raise StoreUnavailable(f"broker: {error}") from error


async def publish_async(task: str, task_id: str, *args: Any) -> None:
    """`publish` without holding up the event loop."""
    await asyncio.to_thread(publish, task, task_id, *args)


def broker_key() -> str:
    """The Redis list a script may push to, or '' where the broker is another one."""
    return keys.ORDER_QUEUE if BROKER_IS_LEDGER else ""


def new_task_id() -> str:
    """An id for a task that has none of its own."""
    return str(uuid.uuid4())


#: An order to build the template with, before the first one comes.
EXAMPLE = Order(id=_ID, client=STOREFRONT, lines=(), fingerprint="", accepted_at_ms=0)
