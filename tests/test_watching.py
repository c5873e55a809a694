"""What an open page is told of an order that is cancelled in the very moment in which it asks."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis
from django.db import connection
from django.http import HttpResponse

from shop.cancellation import request_cancel
from shop.domain import STOREFRONT, Order
from shop.fulfilment import cancel, fulfil
from shop.pages import watching
from shop.pages.buyer import COOKIE, Buyer
from shop.pages.orders import is_wish_recorded, order_of, shown_as
from shop.web.http import Request
from tests.builders import a_sku, accepted, an_order
from tests.test_web_stores import in_a_web_process


@pytest.fixture
def buyer() -> Buyer:
    """Somebody new."""
    return Buyer.new()


@pytest.fixture
def order(client: "redis.Redis", buyer: Buyer) -> Order:
    """The buyer's order, confirmed."""
    order = msgspec.structs.replace(an_order((a_sku(), 1), client=STOREFRONT), customer=buyer.id)
    fulfil(accepted(client, order), client=client)
    return order


async def carried_out(client: "redis.Redis", order: Order) -> None:
    """Have a worker cancel the order now."""

    def work() -> None:
        cancel(order.id, client=client)
        connection.close()

    await asyncio.to_thread(work)


async def watched(buyer: Buyer, order: Order) -> str:
    """What the page is told."""
    kept = HttpResponse()
    buyer.keep(kept)
    cookie = f"{COOKIE}={kept.cookies[COOKIE].value}"
    request = Request(method="GET", path="/", headers={b"cookie": [cookie]})
    answer = await watching.order(request, order.id)
    return str(msgspec.json.decode(answer.content)["status"])


def test_an_order_that_is_cancelled_between_two_reads_is_not_shown_as_confirmed(
    client: "redis.Redis", buyer: Buyer, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def cancelled_after_the_first(read: Callable[..., Any]) -> Callable[..., Any]:
        async def answered(*asked: Any) -> Any:
            found = await read(*asked)
            reads.append(read.__name__)
            if len(reads) == 1:
                await carried_out(client, order)
            return found

        return answered

    for read in (is_wish_recorded, order_of):
        monkeypatch.setattr(watching, read.__name__, cancelled_after_the_first(read))

    async def story() -> list[str]:
        await request_cancel(order.id, STOREFRONT)
        return [await watched(buyer, order), await watched(buyer, order)]

    assert in_a_web_process(story) == ["cancelled", "cancelled"]
    assert len(reads) == 4


def test_whoever_read_the_state_first_would_show_it_as_confirmed(
    client: "redis.Redis", buyer: Buyer, order: Order
) -> None:
    async def story() -> str:
        await request_cancel(order.id, STOREFRONT)
        state = await order_of(buyer, order.id)
        assert state is not None
        await carried_out(client, order)
        return shown_as(state, is_wish_recorded=await is_wish_recorded(order.id))

    assert in_a_web_process(story) == "confirmed"


def test_a_wish_that_waits_is_told(buyer: Buyer, order: Order) -> None:
    async def story() -> list[str]:
        before = await watched(buyer, order)
        await request_cancel(order.id, STOREFRONT)
        return [before, await watched(buyer, order)]

    assert in_a_web_process(story) == ["confirmed", "cancelling"]
