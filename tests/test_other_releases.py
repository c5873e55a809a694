"""Messages and records of a newer release, of an older one, and of nobody; and orders that kill whoever works on them."""

import base64
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from shop import keys, queue
from shop.domain import Order
from shop.stores import redis_client
from tests.builders import (
    a_sku,
    accepted,
    an_order,
    assert_at_rest,
    free_in_redis,
    status_in_books,
    wait_until,
)
from tests.running import System

Message = dict[str, Any]
Change = Callable[[Message, Message], None]


@pytest.fixture
def crew(tmp_path: Path, client: "redis.Redis") -> Iterator[System]:
    """A system of this test alone, not started; the sweeper looks after orders soon."""
    with System(tmp_path, env={"SWEEP_AFTER_MS": "1000", "MAX_ATTEMPTS": "3"}) as system:
        yield system


def a_newer_order(document: Message, _: Message) -> None:
    document |= {"currency": "EUR", "parcels": [{"lines": [1]}], "version": 7}


def longer_lines(document: Message, _: Message) -> None:
    document["lines"] = [[*line, "kg", 2.5] for line in document["lines"]]


def an_older_order(document: Message, _: Message) -> None:
    del document["customer"], document["reference"]


def newer_headers(_: Message, message: Message) -> None:
    message["headers"] |= {"tenant": "t", "stamps": {"x": [1]}, "replaced_task_nesting": 3}
    message["properties"] |= {"trace": "t"}
    message["compression"] = None


def no_fingerprint(document: Message, _: Message) -> None:
    del document["fingerprint"]


def another_shape(document: Message, _: Message) -> None:
    document["lines"] = dict(document["lines"])


def another_task(_: Message, message: Message) -> None:
    message["headers"]["task"] = "tasks.orders.fulfil_order_v2"


def another_encoding(_: Message, message: Message) -> None:
    message["content-type"] = "application/x-msgpack"


#: What other releases may change. Of those that are not understood the order's record takes the place.
CHANGES: list[Change] = [
    a_newer_order,
    longer_lines,
    an_older_order,
    newer_headers,
    no_fingerprint,
    another_shape,
    another_task,
    another_encoding,
]


def changed(order: Order, change: Change) -> str:
    """The order's message as another release would send it."""
    message = json.loads(queue.fulfil_message(order))
    arguments, keywords, embed = json.loads(base64.b64decode(message["body"]))
    change(arguments[0], message)
    message["body"] = base64.b64encode(json.dumps([arguments, keywords, embed]).encode()).decode()
    return json.dumps(message)


def with_an_unknown_keyword(order: Order) -> str:
    """A task of a release that takes more arguments."""
    message = json.loads(queue.fulfil_message(order))
    arguments, _, embed = json.loads(base64.b64decode(message["body"]))
    message["body"] = base64.b64encode(json.dumps([arguments, {"priority": 1}, embed]).encode()).decode()
    return json.dumps(message)


def test_orders_whose_messages_come_from_another_release_end_all_the_same(crew: System) -> None:
    sku = a_sku(stock=100)
    orders = accepted(redis_client(), *(an_order((sku, 1)) for _ in [*CHANGES, with_an_unknown_keyword]))
    texts = [changed(order, change) for order, change in zip(orders, CHANGES, strict=False)]
    redis_client().lpush(keys.ORDER_QUEUE, *texts, with_an_unknown_keyword(orders[-1]))

    crew.start("web", "worker", "scheduler")

    names = [*(change.__name__ for change in CHANGES), "with_an_unknown_keyword"]
    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="the end of all orders")
    ended = dict(zip(names, map(status_in_books, orders), strict=True))
    assert ended == dict.fromkeys(names, "confirmed")
    assert free_in_redis(redis_client(), sku) == 100 - len(names)
    assert_at_rest(redis_client())


def test_records_of_another_release_are_read_and_worked_on(crew: System) -> None:
    sku = a_sku(stock=10)
    orders = accepted(redis_client(), *(an_order((sku, 1), client="shop") for _ in range(2)))
    for order, change in zip(orders, [a_newer_order, an_older_order], strict=True):
        document = json.loads(redis_client().hget(keys.order(order.id), "document"))
        change(document, {})
        redis_client().hset(keys.order(order.id), mapping={"document": json.dumps(document), "tenant": "t"})

    crew.start("worker", "scheduler")

    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="the end of both orders")
    assert [status_in_books(order) for order in orders] == ["confirmed"] * 2


def test_a_message_without_any_order_of_ours_is_thrown_out_and_takes_nothing(crew: System) -> None:
    sku = a_sku(stock=10)
    base = json.loads(queue.fulfil_message(an_order((sku, 1))))
    rubbish = []
    for arguments in ([], [None], [[]], [{}], [{"id": "x"}], ["*" * 100_000], [1e308], [[[[[[]]]]]], {}, "x"):
        message = copy.deepcopy(base)
        message["body"] = base64.b64encode(json.dumps([arguments, {}, {}]).encode()).decode()
        rubbish.append(json.dumps(message))
    hostile = [
        an_order((sku, 1), client=client)
        for client in (
            "a:b",
            "*",
            "x\n",
            "\0",
            "]] redis.call('FLUSHALL') --",
            "'; DROP TABLE shop_order; --",
        )
    ]
    redis_client().lpush(
        keys.ORDER_QUEUE, *rubbish, *map(queue.fulfil_message, hostile), "\0\xff", "", "{}" * 9
    )
    (sound,) = accepted(redis_client(), an_order((sku, 1)))
    redis_client().lpush(keys.ORDER_QUEUE, queue.fulfil_message(sound))

    crew.start("worker")

    wait_until(lambda: status_in_books(sound) == "confirmed", what="the order behind")
    wait_until(lambda: not redis_client().hlen("unacked"), what="the last acknowledgement")
    assert free_in_redis(redis_client(), sku) >= 10 - 1 - len(hostile)
    assert redis_client().zcard(keys.OPEN_ORDERS) == 0


# --- poison ---------------------------------------------------------------------------------------


def test_an_order_that_kills_every_process_that_takes_it_is_given_up_and_its_neighbours_are_not(
    crew: System,
) -> None:
    sku = a_sku(stock=10)
    crew.worker_app = "tests.poisoned_worker"
    crew.start("web")
    before = [crew.place((sku, 1)).body["id"] for _ in range(2)]
    poison = crew.place((sku, 5), reference="poison").body["id"]
    behind = [crew.place((sku, 1)).body["id"] for _ in range(2)]

    crew.start("worker", "scheduler")
    ended = {each: crew.end_of(each).body for each in (*before, poison, *behind)}

    assert {ended[each]["status"] for each in (*before, *behind)} == {"confirmed"}
    assert (ended[poison]["status"], ended[poison]["reason"]["code"]) == ("failed", "too_many_attempts")
    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="every order to be settled")
    assert free_in_redis(redis_client(), sku) == 6
    assert_at_rest(redis_client())
    assert crew.end_of(crew.place((sku, 6)).body["id"]).body["status"] == "confirmed"
