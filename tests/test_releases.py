"""Two neighbouring releases on one Redis: each reads what the other writes, and leaves alone what it does not know.

What is released is written down here, so that a change which the release before would trip over turns a test red.
"""

import asyncio
import json
import uuid
from typing import Any

import msgspec
import pytest
import redis

from shop import intake, keys, queue, results
from shop.domain import Line, LineShortage, Order, Reason
from shop.results import OrderState
from shop.stores import order_database
from tasks.orders import fulfil_orders
from tests.builders import a_sku, accepted, an_order, assert_at_rest, free_in_redis, status_in_redis

#: What each message and record of an order holds since the first release. More may come, if it may be missing.
RELEASED = {
    Order: ["id", "client", "lines", "fingerprint", "accepted_at_ms"],
    Reason: ["code"],
    LineShortage: ["sku", "requested", "available"],
    Line: ["sku", "quantity"],
}
#: The fields of `order:<id>` that a reader may rely on.
RECORD = {"status", "client", "fingerprint", "document", "updated_at"}


def as_of_the_release_before(order: Order) -> dict[str, Any]:
    """An order's document with only what was always there."""
    document = msgspec.to_builtins(order)
    return {name: document[name] for name in RELEASED[Order]}


def as_of_the_next_release(order: Order) -> dict[str, Any]:
    """An order's document with more than this release knows."""
    return msgspec.to_builtins(order) | {"channel": "app", "discount": {"percent": 5}}


RELEASES = [as_of_the_release_before, as_of_the_next_release]


def body(document: dict[str, Any]) -> bytes:
    """The body of an order's message."""
    return json.dumps([[document], {}, {"callbacks": None, "errbacks": None, "chain": None}]).encode()


def found(order: Order) -> OrderState | None:
    """What a client is told of its order."""

    async def ask() -> OrderState | None:
        try:
            return await results.find(order.id, order.client)
        finally:
            await results.close()
            await order_database.close()

    return asyncio.run(ask())


@pytest.mark.parametrize("released", RELEASES)
def test_a_message_of_the_neighbouring_release_is_an_order(client: "redis.Redis", released: Any) -> None:
    order = an_order((a_sku(stock=10), 3))
    accepted(client, order)

    assert fulfil_orders([body(released(order))]) == ["confirmed"]
    assert_at_rest(client)


@pytest.mark.parametrize("released", RELEASES)
def test_a_record_of_the_neighbouring_release_is_read_settled_and_otherwise_left_alone(
    client: "redis.Redis", released: Any
) -> None:
    sku = a_sku(stock=10)
    order = an_order((sku, 3))
    accepted(client, order)
    document = json.dumps(released(order))
    client.hset(keys.order(order.id), mapping={"document": document, "channel": "app"})

    before = found(order)
    fulfil_orders([body(msgspec.to_builtins(order))])
    after = found(order)

    assert before is not None
    assert after is not None
    assert (before.order, before.status, after.order, after.status) == (order, "queued", order, "confirmed")
    assert client.hmget(keys.order(order.id), "document", "channel") == [document, "app"]
    assert free_in_redis(client, sku) == 7


def test_what_was_released_stays_and_what_came_later_may_be_missing() -> None:
    required = {
        struct: [field.encode_name for field in msgspec.structs.fields(struct) if field.required]
        for struct in RELEASED
    }

    assert required == RELEASED
    assert not any(struct.__struct_config__.forbid_unknown_fields for struct in RELEASED)
    assert Line.__struct_config__.array_like  # by place: nothing may come in between


def test_without_a_default_a_new_field_would_make_messages_of_the_release_before_garbage() -> None:
    class NextOrder(Order, frozen=True, kw_only=True):
        channel: str

    with pytest.raises(msgspec.ValidationError, match="channel"):
        msgspec.convert(as_of_the_release_before(an_order(("X", 1))), NextOrder)


def test_a_record_has_every_field_that_readers_of_both_releases_rely_on(client: "redis.Redis") -> None:
    order = an_order((a_sku(), 1))

    async def accept() -> None:
        try:
            await intake.accept(order, uuid.uuid4().hex, asyncio.get_running_loop().time() + 5)
        finally:
            await intake.close()
            await order_database.close()

    asyncio.run(accept())

    assert set(client.hgetall(keys.order(order.id))) == RECORD
    assert json.loads(client.lindex(keys.ORDER_QUEUE, 0))["headers"]["task"] == queue.FULFIL_TASK
    assert queue.FULFIL_TASK == "tasks.orders.fulfil_order"
    assert status_in_redis(client, order) == "queued"
