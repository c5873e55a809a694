"""What the sweeper sets going again, and what it leaves alone."""

import json
import time
import uuid
from datetime import timedelta

import msgspec
import pytest
import redis
from django.utils import timezone

from shop import keys, queue, stock, sweeper
from shop.domain import Order
from shop.fulfilment import fulfil
from shop.models import Product
from shop.stores import rows
from tests.builders import a_sku, accepted, an_order, assert_at_rest, free_in_redis, row_held, status_in_redis


def now_ms() -> int:
    """This moment, in Unix milliseconds."""
    return int(time.time() * 1000)


def overdue(client: "redis.Redis", *orders: Order) -> None:
    """Make the sweeper look at these orders now."""
    client.zadd(keys.OPEN_ORDERS, {order.id: 1 for order in orders})


def waiting(client: "redis.Redis") -> list[str]:
    """The order ids on the queue, the next one first."""
    return [
        json.loads(message)["headers"]["id"] for message in reversed(client.lrange(keys.ORDER_QUEUE, 0, -1))
    ]


def test_an_overdue_order_without_a_message_is_enqueued_once(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(), 1)))
    overdue(client, order)

    counts = [sweeper.enqueue_due(client, now_ms()) for _ in range(3)]

    assert (counts, waiting(client)) == ([1, 0, 0], [order.id])


def test_an_order_that_was_begun_and_has_not_ended_is_enqueued_to_go_alone(client: "redis.Redis") -> None:
    never_begun, begun = accepted(client, *(an_order((a_sku(), 1)) for _ in range(2)))
    client.hset(keys.order(begun.id), "attempts", 1)
    overdue(client, never_begun, begun)

    sweeper.enqueue_due(client, now_ms())

    headers = [json.loads(message)["headers"] for message in client.lrange(keys.ORDER_QUEUE, 0, -1)]
    assert {each["id"] for each in headers if each.get("redelivered")} == {begun.id}
    assert len(headers) == 2


def test_an_order_that_is_not_overdue_is_left_alone(client: "redis.Redis") -> None:
    accepted(client, an_order((a_sku(), 1)))

    assert sweeper.enqueue_due(client, now_ms()) == 0


def test_orders_that_merely_wait_in_a_long_line_are_not_enqueued_again(client: "redis.Redis") -> None:
    first, second = an_order((a_sku(), 1)), an_order((a_sku(), 1))
    client.lpush(keys.ORDER_QUEUE, queue.fulfil_message(first), queue.fulfil_message(second))
    later = Order(
        **{**{f: getattr(second, f) for f in second.__struct_fields__}, "accepted_at_ms": now_ms() + 1}
    )
    accepted(client, first, later)
    overdue(client, later)

    assert sweeper.enqueue_due(client, now_ms()) == 0
    assert waiting(client) == [first.id, second.id]


def test_a_lost_order_older_than_the_head_of_the_line_is_enqueued(client: "redis.Redis") -> None:
    lost = accepted(client, an_order((a_sku(), 1)))[0]
    head = an_order((a_sku(), 1))
    head = Order(**{**{f: getattr(head, f) for f in head.__struct_fields__}, "accepted_at_ms": now_ms() + 1})
    accepted(client, head)
    client.lpush(keys.ORDER_QUEUE, queue.fulfil_message(head))
    overdue(client, lost)

    assert sweeper.enqueue_due(client, now_ms()) == 1


def test_however_many_messages_are_lost_one_sweep_enqueues_all_of_them(client: "redis.Redis") -> None:
    orders = accepted(client, *(an_order((a_sku(stock=None), 1)) for _ in range(sweeper.SWEEP_BATCH + 1)))
    overdue(client, *orders)

    enqueued = sweeper.enqueue_due(client, now_ms())

    assert (enqueued, set(waiting(client))) == (len(orders), {order.id for order in orders})


def test_lost_orders_behind_those_that_were_enqueued_again_are_found(client: "redis.Redis") -> None:
    first, second = accepted(client, *(an_order((a_sku(stock=None), 1)) for _ in range(2)))
    overdue(client, first)
    sweeper.enqueue_due(client, now_ms() + 1)
    overdue(client, second)

    sweeper.enqueue_due(client, now_ms())

    assert waiting(client) == [first.id, second.id]


def test_orders_that_were_enqueued_again_and_wait_are_left_alone(client: "redis.Redis") -> None:
    orders = accepted(client, *(an_order((a_sku(stock=None), 1)) for _ in range(2)))
    overdue(client, *orders)
    sweeper.enqueue_due(client, now_ms())
    overdue(client, *orders)

    assert sweeper.enqueue_due(client, now_ms()) == 0


def test_garbage_at_the_head_of_the_line_does_not_stop_the_sweeper(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(), 1)))
    overdue(client, order)
    client.lpush(keys.ORDER_QUEUE, "no message")

    assert sweeper.enqueue_due(client, now_ms()) == 1


def test_a_parked_order_is_not_enqueued_again(client: "redis.Redis") -> None:
    parked, lost = accepted(client, *(an_order((a_sku(), 1)) for _ in range(2)))
    client.hset("parked", parked.id, "its message")
    overdue(client, parked, lost)

    assert sweeper.enqueue_due(client, now_ms()) == 1
    assert waiting(client) == [lost.id]


def test_orders_that_wait_behind_garbage_are_not_enqueued_again(client: "redis.Redis") -> None:
    head = an_order((a_sku(), 1))
    (later,) = accepted(client, msgspec.structs.replace(an_order((a_sku(), 1)), accepted_at_ms=now_ms() + 1))
    client.rpush(keys.ORDER_QUEUE, queue.fulfil_message(later), queue.fulfil_message(head), "no message")
    overdue(client, later)

    assert sweeper.enqueue_due(client, now_ms()) == 0


def test_an_order_that_a_worker_has_in_hand_is_not_enqueued_again(client: "redis.Redis") -> None:
    in_hand, lost = accepted(client, *(an_order((a_sku(), 1)) for _ in range(2)))
    overdue(client, in_hand, lost)
    client.zadd(keys.UNACKED_INDEX, {in_hand.id: time.time()})

    assert sweeper.enqueue_due(client, now_ms()) == 1
    assert waiting(client) == [lost.id]


def test_an_open_order_whose_record_was_deleted_does_not_stay_open_for_ever(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(), 1)))
    overdue(client, order)
    client.delete(keys.order(order.id))

    sweeper.enqueue_due(client, now_ms())

    assert client.zcard(keys.OPEN_ORDERS) == 0


def test_a_cancellation_whose_message_was_lost_is_carried_out(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 4)))
    fulfil([order], client=client)
    client.zadd(keys.CANCELLATIONS, {order.id: 1})

    sweeper.cancel_overdue(client, now_ms())

    assert (status_in_redis(client, order), free_in_redis(client, sku)) == ("cancelled", 10)
    assert_at_rest(client)


def test_a_cancellation_whose_row_somebody_holds_keeps_no_other_from_being_carried_out(
    client: "redis.Redis",
) -> None:
    sku, other = a_sku(stock=10), a_sku(stock=10)
    first, second = orders = accepted(client, an_order((sku, 4)), an_order((other, 4)))
    fulfil(orders, client=client)
    client.zadd(keys.CANCELLATIONS, {first.id: 1, second.id: 2})

    with row_held(sku):
        sweeper.sweep(client)
        assert [status_in_redis(client, order) for order in orders] == ["confirmed", "cancelled"]
    sweeper.cancel_overdue(client, now_ms() + 2 * sweeper.CANCEL_AFTER_MS)

    assert (status_in_redis(client, first), free_in_redis(client, sku)) == ("cancelled", 10)
    assert_at_rest(client)


def test_stock_whose_process_died_before_redis_was_told_is_published(client: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    stock.refresh(client, [sku])
    rows("move", request=str(uuid.uuid4()), client="c", sku=sku, delta=5, reason="delivery", followed="")
    Product.objects.filter(sku=sku).update(changed_at=timezone.now() - timedelta(seconds=5))

    sweeper.publish_recent_stock(client)

    assert free_in_redis(client, sku) == 15


def test_an_open_order_whose_record_is_broken_keeps_no_other_from_being_enqueued(
    client: "redis.Redis",
) -> None:
    broken, other = accepted(client, *(an_order((a_sku(), 1)) for _ in range(2)))
    client.set(keys.order(broken.id), "no hash")
    overdue(client, broken, other)

    enqueued = sweeper.enqueue_due(client, at := now_ms())

    assert (enqueued, waiting(client)) == (1, [other.id])
    assert client.zscore(keys.OPEN_ORDERS, broken.id) > at


def test_a_part_of_the_sweep_that_fails_keeps_no_other_from_being_done_and_is_told(
    client: "redis.Redis",
) -> None:
    (order,) = accepted(client, an_order((a_sku(), 1)))
    overdue(client, order)
    client.set(keys.CANCELLATIONS, "no journal")

    with pytest.raises(ExceptionGroup, match="parts of the sweep"):
        sweeper.sweep(client)

    assert waiting(client) == [order.id]
    assert not client.exists(keys.SWEEPER_HEARTBEAT)


def test_a_sweep_says_that_it_happened(client: "redis.Redis") -> None:
    sweeper.sweep(client)

    assert 0 < client.ttl(keys.SWEEPER_HEARTBEAT) <= 30
