"""The client of the API: against the real one, and against peers that misbehave."""

import asyncio
import socket
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest

from shop.client import BlockingClient, Client, Refused, Unavailable
from shop.domain import ReasonCode, Status
from shop.http_connection import Origin
from shop.web.schemas import OrderAnswer, OrderLine
from tests.builders import a_sku, wait_until
from tests.peer import HANG_UP, SILENCE, a_peer, an_answer
from tests.running import System

ORDER = OrderAnswer(
    id=str(uuid.uuid4()),
    status=Status.CONFIRMED,
    items=[OrderLine("X", 1)],
    customer=None,
    reference=None,
    created_at=datetime.now(UTC),
    updated_at=datetime.now(UTC),
    href="/",
)
BODY = msgspec.json.encode(ORDER)


GOOD = an_answer(200, BODY)


# --- the real API ---------------------------------------------------------------------------------


def test_an_order_is_placed_and_followed_to_its_end(system: System) -> None:
    sku = a_sku(stock=10)
    key = uuid.uuid4().hex

    with BlockingClient(system.url, system.api_key) as shop:
        placed = shop.place_order([(sku, 2), (sku, 3)], key=key, customer="17850", reference="PO-1")
        again = shop.place_order([(sku, 5)], key=key, customer="17850", reference="PO-1")
        ended = shop.ended(placed.order.id)

    assert (placed.replayed, again.replayed) == (False, True)
    assert placed.order.id == again.order.id == ended.id
    assert (ended.status, ended.items) == (Status.CONFIRMED, [OrderLine(sku, 5)])
    assert (ended.customer, ended.reference) == ("17850", "PO-1")


def test_a_rejected_order_says_what_was_short(system: System) -> None:
    sku = a_sku(stock=2)

    with BlockingClient(system.url, system.api_key) as shop:
        ended = shop.ended(shop.place_order([(sku, 3)], key=uuid.uuid4().hex).order.id)

    assert ended.status is Status.REJECTED
    assert ended.reason
    assert ended.reason.code is ReasonCode.INSUFFICIENT_STOCK
    assert [(s.sku, s.requested, s.available) for s in ended.reason.lines] == [(sku, 3, 2)]


def test_a_cancelled_order_gives_its_units_back(system: System) -> None:
    sku = a_sku(stock=10)

    with BlockingClient(system.url, system.api_key) as shop:
        order = shop.ended(shop.place_order([(sku, 4)], key=uuid.uuid4().hex).order.id)
        before = shop.product(sku).available
        shop.cancel(order.id)
        wait_until(lambda: shop.order(order.id).status is Status.CANCELLED)
        wait_until(lambda: shop.product(sku).available == 10)

    assert before == 6


def test_stock_moves_by_a_difference_once_per_key(system: System) -> None:
    sku = a_sku(stock=10)

    with BlockingClient(system.url, system.api_key) as shop:
        first = shop.move_stock(sku, 5, reason="delivery", key=f"delivery-{sku}".replace(" ", "-"))
        second = shop.move_stock(sku, 5, reason="delivery", key=f"delivery-{sku}".replace(" ", "-"))

        assert (first.id, first.available) == (second.id, second.available)
        assert shop.product(sku).available == 15


def test_products_come_page_by_page(system: System) -> None:
    word = uuid.uuid4().hex[:8]
    skus = sorted(f"{a_sku(stock=1)} {word}" for _ in range(5))
    for sku in skus:
        a_product(sku)

    with BlockingClient(system.url, system.api_key) as shop:
        pages = [shop.products(q=word, limit=2)]
        while pages[-1].next:
            pages.append(shop.products(after=pages[-1]))
        with pytest.raises(ValueError, match="last page"):
            shop.products(after=pages[-1])

    assert [[product.sku for product in page.items] for page in pages] == [skus[:2], skus[2:4], skus[4:]]


def a_product(sku: str) -> None:
    from shop.models import Product

    Product.objects.create(sku=sku, name="A product", price="1.00")


def test_what_the_shop_refuses_is_not_asked_again(system: System) -> None:
    with BlockingClient(system.url, system.api_key) as shop, pytest.raises(Refused) as refused:
        shop.place_order([("X", 0)], key=uuid.uuid4().hex)

    assert refused.value.problem.status == 422
    assert "/items/0/quantity" in str(refused.value)


def test_a_hundred_calls_share_a_few_connections(system: System) -> None:
    sku = a_sku(stock=100)

    async def order_all() -> list[OrderAnswer]:
        async with Client(system.url, system.api_key, connections=8) as shop:

            async def order(number: int) -> OrderAnswer:
                placed = await shop.place_order([(sku, 1)], key=f"{uuid.uuid4().hex}-{number}")
                return await shop.ended(placed.order.id)

            return await asyncio.gather(*(order(number) for number in range(100)))

    ended = asyncio.run(order_all())

    assert {order.status for order in ended} == {Status.CONFIRMED}
    assert len({order.id for order in ended}) == 100


# --- peers that misbehave -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        HANG_UP,
        an_answer(500),
        an_answer(503),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf" + HANG_UP,
        b"nonsense\r\n\r\n",
    ],
    ids=["hangs up", "500", "503", "half an answer", "no HTTP"],
)
def test_an_order_without_a_clear_answer_is_sent_again_with_the_same_key(trouble: bytes) -> None:
    with a_peer(trouble, trouble, an_answer(202, BODY)) as peer, BlockingClient(peer.url, "k") as shop:
        placed = shop.place_order([("X", 1)], key="one-key", reference="PO-1")

    assert placed.order == ORDER
    assert len(peer.requests) == 3
    assert len(set(peer.requests)) == 1
    assert b'\r\nIdempotency-Key: "one-key"\r\n' in peer.requests[0]


def test_an_answer_that_does_not_come_is_given_up_and_asked_for_again() -> None:
    with a_peer(SILENCE, GOOD) as peer, BlockingClient(peer.url, "k", timeout_s=0.2) as shop:
        assert shop.order("1") == ORDER

    assert len(peer.requests) == 2
    assert peer.connections == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_shop_that_names_a_time_is_not_asked_before(status: int) -> None:
    with a_peer(an_answer(status, Retry_After="1"), GOOD) as peer, BlockingClient(peer.url, "k") as shop:
        shop.order("1")

    assert peer.arrived[1] - peer.arrived[0] >= 1


def test_patience_ends() -> None:
    with a_peer(an_answer(503)) as peer, BlockingClient(peer.url, "k", patience_s=1) as shop:
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"GET /api/v1/orders/1: no answer for 1 s, at last: HTTP 503"):
            shop.order("1")

    assert time.monotonic() - began < 3
    assert len(peer.requests) > 1


def test_a_shop_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

    with BlockingClient(url, "k", patience_s=0.2) as shop, pytest.raises(Unavailable):
        shop.product("X")


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" + GOOD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:]))
        + b"0\r\nTrailer: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + BODY + HANG_UP,
    ],
    ids=["with a length", "after an interim answer", "in chunks", "until the connection ends"],
)
def test_every_form_of_an_answer_is_understood(answer: bytes) -> None:
    with a_peer(answer) as peer, BlockingClient(peer.url, "k") as shop:
        assert shop.order("1") == ORDER
        assert shop.order("1") == ORDER


def test_a_connection_is_used_again() -> None:
    with a_peer(GOOD) as peer, BlockingClient(peer.url, "k") as shop:
        for _ in range(5):
            shop.order("1")

    assert peer.connections == 1


def test_a_connection_that_the_peer_closes_is_not_used_again() -> None:
    with (
        a_peer(an_answer(200, BODY, Connection="close") + HANG_UP) as peer,
        BlockingClient(peer.url, "k") as shop,
    ):
        for _ in range(3):
            shop.order("1")

    assert peer.connections == 3
    assert len(peer.requests) == 3


def test_no_more_connections_are_opened_than_allowed() -> None:
    async def ask_all(url: str) -> None:
        async with Client(url, "k", connections=3) as shop:
            await asyncio.gather(*(shop.order("1") for _ in range(30)))

    with a_peer(GOOD) as peer:
        asyncio.run(ask_all(peer.url))

    assert peer.connections <= 3
    assert len(peer.requests) == 30


def test_an_error_page_of_a_proxy_is_told_in_its_own_words() -> None:
    with (
        a_peer(an_answer(404, b"<h1>Nothing here</h1>")) as peer,
        BlockingClient(peer.url, "k") as shop,
        pytest.raises(Refused, match="404 no problem document: <h1>Nothing here</h1>"),
    ):
        shop.order("1")


def test_keys_with_quotes_are_escaped() -> None:
    with a_peer(an_answer(202, BODY)) as peer, BlockingClient(peer.url, "k") as shop:
        shop.place_order([("X", 1)], key='a"b\\c,d')

    assert rb'Idempotency-Key: "a\"b\\c,d"' in peer.requests[0]


@pytest.mark.parametrize(
    "act",
    [
        lambda shop: shop.place_order([("X", 1)], key="a\r\nX-Injected: 1"),
        lambda shop: shop.move_stock("X", 1, reason="r", key="a b"),
        lambda shop: shop.place_order([("X", 1)], key=""),
    ],
)
def test_text_that_would_break_out_of_a_header_is_never_sent(act: Callable[[BlockingClient], object]) -> None:
    with (
        a_peer(GOOD) as peer,
        BlockingClient(peer.url, "k") as shop,
        pytest.raises(ValueError, match="must be visible ASCII"),
    ):
        act(shop)

    assert peer.requests == []


def test_an_order_id_cannot_leave_its_place_in_the_path() -> None:
    with a_peer(GOOD) as peer, BlockingClient(peer.url, "k") as shop:
        shop.order("../products?x=1 HTTP/1.1\r\n")

    assert peer.requests[0].startswith(
        b"GET /api/v1/orders/..%2Fproducts%3Fx%3D1%20HTTP%2F1.1%0D%0A HTTP/1.1\r\n"
    )


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://shop", "http://", "http://shop/path", ""])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(ValueError, match="no address like"):
        Client(url, "k")


def test_links_are_followed_within_the_shop_only() -> None:
    origin = Origin.of("http://shop.example:8000")

    assert origin.target("/api/v1/products?cursor=a") == "/api/v1/products?cursor=a"
    assert origin.target("http://shop.example:8000/api") == "/api"
    with pytest.raises(ValueError, match="leads away"):
        origin.target("http://elsewhere.example/api")
