"""Messages we build ourselves are those Celery builds: told by publishing both and comparing."""

import base64
import json
from typing import Any

import redis

import tasks.orders  # noqa: F401 - registers the tasks with the app
from shop import keys, queue
from tests.builders import an_order
from workers.app import app


def published_by_celery(client: "redis.Redis", task: str, task_id: str, argument: Any) -> dict[str, Any]:
    """What Celery itself puts into Redis."""
    app.tasks[task].apply_async(args=[argument], task_id=task_id, argsrepr=task_id)
    message: dict[str, Any] = json.loads(client.rpop(keys.ORDER_QUEUE) or "")
    # Celery repeats an option among the properties, and names a reply queue that tasks without results never use.
    message["properties"] |= {"reply_to": ""}
    message["properties"].pop("argsrepr")
    return message


def test_our_message_of_an_order_is_celerys_to_the_letter(client: "redis.Redis") -> None:
    order = an_order(("A b/ü", 3))
    document = json.loads(queue._json.encode(order))

    theirs = published_by_celery(client, queue.FULFIL_TASK, order.id, document)
    ours = json.loads(queue.fulfil_message(order))

    assert json.loads(base64.b64decode(ours.pop("body"))) == json.loads(base64.b64decode(theirs.pop("body")))
    tags = {message["properties"].pop("delivery_tag") for message in (ours, theirs)}
    assert len(tags) == 2
    assert ours == theirs


def test_our_message_of_a_cancellation_is_celerys_to_the_letter(client: "redis.Redis") -> None:
    ours = json.loads(queue.cancel_message("an order"))
    theirs = published_by_celery(client, queue.CANCEL_TASK, ours["headers"]["id"], "an order")

    assert base64.b64decode(ours.pop("body")).replace(b" ", b"") == base64.b64decode(
        theirs.pop("body")
    ).replace(b" ", b"")
    for message in (ours, theirs):
        del message["properties"]["delivery_tag"]
    assert ours == theirs


def test_orders_and_housekeeping_have_lines_of_their_own() -> None:
    routes = {
        name: app.amqp.router.route({}, name)["queue"].name
        for name in (queue.FULFIL_TASK, queue.CANCEL_TASK, "tasks.maintenance.sweep")
    }

    assert list(routes.values()) == ["orders", "orders", "maintenance"]


def test_a_message_that_is_restored_goes_back_to_its_own_line() -> None:
    delivery = json.loads(queue.fulfil_message(an_order(("A", 1))))["properties"]["delivery_info"]

    assert delivery == {"exchange": "", "routing_key": "orders"}
