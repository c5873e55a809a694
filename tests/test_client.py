"""The client of the API: against the real one, and against peers that misbehave."""

import asyncio
import doctest
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec
import pytest

from shop import client as client_module
from shop.client import (
    REFUSALS,
    AccessDenied,
    AsyncClient,
    Client,
    InsufficientStock,
    Invalid,
    KeyReused,
    NotCancellable,
    NotFound,
    Overloaded,
    Refused,
    Unavailable,
)
from shop.clients import create_key
from shop.domain import ReasonCode, Status
from shop.http_connection import Origin
from shop.web.problems import Kind
from shop.web.schemas import OrderAnswer, OrderLine
from tests.builders import a_sku, at_once, the_sample_catalogue, wait_until
from tests.peer import HANG_UP, SILENCE, a_peer, an_answer, lost, passed_on
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

    with Client(system.url, system.api_key) as shop:
        placed = shop.place_order([(sku, 2), (sku, 3)], key=key, customer="17850", reference="PO-1")
        again = shop.place_order([(sku, 5)], key=key, customer="17850", reference="PO-1")
        ended = shop.ended(placed.order.id)

    assert (placed.replayed, again.replayed) == (False, True)
    assert placed.order.id == again.order.id == ended.id
    assert (ended.status, ended.items) == (Status.CONFIRMED, [OrderLine(sku, 5)])
    assert (ended.customer, ended.reference) == ("17850", "PO-1")


def test_a_rejected_order_says_what_was_short(system: System) -> None:
    sku = a_sku(stock=2)

    with Client(system.url, system.api_key) as shop:
        ended = shop.ended(shop.place_order([(sku, 3)], key=uuid.uuid4().hex).order.id)

    assert ended.status is Status.REJECTED
    assert ended.reason
    assert ended.reason.code is ReasonCode.INSUFFICIENT_STOCK
    assert [(s.sku, s.requested, s.available) for s in ended.reason.lines] == [(sku, 3, 2)]


def test_a_cancelled_order_gives_its_units_back(system: System) -> None:
    sku = a_sku(stock=10)

    with Client(system.url, system.api_key) as shop:
        order = shop.ended(shop.place_order([(sku, 4)], key=uuid.uuid4().hex).order.id)
        before = shop.product(sku).available
        shop.cancel(order.id)
        wait_until(lambda: shop.order(order.id).status is Status.CANCELLED)
        wait_until(lambda: shop.product(sku).available == 10)

    assert before == 6


def test_stock_moves_by_a_difference_once_per_key(system: System) -> None:
    sku = a_sku(stock=10)

    with Client(system.url, system.api_key) as shop:
        first = shop.move_stock(sku, 5, reason="delivery", key=f"delivery-{sku}".replace(" ", "-"))
        second = shop.move_stock(sku, 5, reason="delivery", key=f"delivery-{sku}".replace(" ", "-"))

        assert (first.id, first.available) == (second.id, second.available)
        assert shop.product(sku).available == 15


def test_products_come_page_by_page(system: System) -> None:
    word = uuid.uuid4().hex[:8]
    skus = sorted(f"{a_sku(stock=1)} {word}" for _ in range(5))
    for sku in skus:
        a_product(sku)

    with Client(system.url, system.api_key) as shop:
        pages = [shop.products(q=word, limit=2)]
        while pages[-1].next:
            pages.append(shop.products(after=pages[-1]))
        with pytest.raises(ValueError, match="last page"):
            shop.products(after=pages[-1])

    assert [[product.sku for product in page.items] for page in pages] == [skus[:2], skus[2:4], skus[4:]]


def a_product(sku: str) -> None:
    from shop.models import Product

    Product.objects.create(sku=sku, name="A product", price="1.00")


def test_all_products_are_fetched_page_by_page(system: System) -> None:
    word = uuid.uuid4().hex[:8]
    skus = sorted(f"{a_sku(stock=1)}/{word}" for _ in range(101))
    for sku in skus:
        a_product(sku)

    async def fetched() -> list[str]:
        async with AsyncClient(system.url, system.api_key) as shop:
            return [product.sku async for product in shop.every_product(q=word)]

    with Client(system.url, system.api_key) as shop:
        assert [product.sku for product in shop.every_product(q=word)] == skus
    assert asyncio.run(fetched()) == skus


def test_a_cancellation_can_be_waited_for(system: System) -> None:
    sku = a_sku(stock=10)

    with Client(system.url, system.api_key) as shop:
        queued = shop.place_order([(sku, 4)], key=uuid.uuid4().hex).order
        confirmed = shop.ended(shop.place_order([(sku, 3)], key=uuid.uuid4().hex).order.id)
        ends = [shop.cancelled(order.id).status for order in (queued, confirmed)]

        assert ends == [Status.CANCELLED, Status.CANCELLED]
        wait_until(lambda: shop.product(sku).available == 10)


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        (Invalid, lambda shop, sku: shop.place_order([(sku, 0)], key=uuid.uuid4().hex)),
        (Invalid, lambda shop, sku: shop.place_order([(sku, 1)], key="k" * 256)),
        (Invalid, lambda shop, sku: shop.move_stock(sku, 0, reason="r", key=uuid.uuid4().hex)),
        (
            KeyReused,
            lambda shop, sku: [shop.place_order([(sku, n)], key=f"twice-{sku[-6:]}") for n in (1, 2)],
        ),
        (NotFound, lambda shop, sku: shop.order(str(uuid.uuid4()))),
        (NotFound, lambda shop, sku: shop.product(f"no {sku}")),
        (InsufficientStock, lambda shop, sku: shop.move_stock(sku, -99, reason="r", key=uuid.uuid4().hex)),
        (
            NotCancellable,
            lambda shop, sku: shop.cancel(
                shop.ended(shop.place_order([(sku, 99)], key=uuid.uuid4().hex).order.id).id
            ),
        ),
    ],
)
def test_each_refusal_has_an_exception_of_its_own(
    system: System, kind: type[Refused], act: Callable[[Client, str], object]
) -> None:
    sku = a_sku(stock=10)

    with Client(system.url, system.api_key) as shop, pytest.raises(Refused) as refused:
        act(shop, sku)

    assert type(refused.value) is kind
    assert refused.value.request_id in str(refused.value)


def test_a_refusal_names_each_bad_place(system: System) -> None:
    with Client(system.url, system.api_key) as shop, pytest.raises(Invalid) as refused:
        shop.place_order([("X", 0)], key=uuid.uuid4().hex)

    assert [error.pointer for error in refused.value.errors] == ["/items/0/quantity"]
    assert "/items/0/quantity" in str(refused.value)


def test_a_key_that_is_unknown_or_not_meant_for_this_is_denied_access(system: System) -> None:
    orders_alone = create_key(f"orders-{uuid.uuid4().hex[:6]}", ["orders"])

    for api_key in ("rsv_unknown", orders_alone):
        with Client(system.url, api_key) as shop, pytest.raises(AccessDenied):
            shop.move_stock(a_sku(), 1, reason="delivery", key=uuid.uuid4().hex)


def test_threads_share_a_client(system: System) -> None:
    sku = a_sku(stock=100)

    with Client(system.url, system.api_key, connections=4) as shop:

        def order() -> Status:
            return shop.ended(shop.place_order([(sku, 1)], key=uuid.uuid4().hex).order.id).status

        ends = at_once(*(order for _ in range(16)))

    assert ends == [Status.CONFIRMED] * 16


def test_every_example_in_the_client_s_documentation_runs_as_it_stands(system: System) -> None:
    the_sample_catalogue()
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)

    with Client(system.url, system.api_key) as shop:
        names = {**vars(client_module), "url": system.url, "api_key": system.api_key, "shop": shop}
        names |= {"ReasonCode": ReasonCode}
        examples = finder.find(client_module, globs=names)
        told: list[str] = []
        for example in examples:
            runner.run(example, out=told.append)

    assert runner.tries >= 15
    assert not runner.failures, "".join(told)


def test_the_client_needs_nothing_of_the_server_but_its_schemas() -> None:
    code = "import sys, shop.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    names = loaded.stdout.split()

    assert {name for name in names if name.startswith("shop.")} == {
        "shop.client",
        "shop.domain",
        "shop.http_connection",
        "shop.web",
        "shop.web.schemas",
    }
    assert "msgspec" in names
    assert not {"django", "celery", "redis", "psycopg"} & set(names)


# --- answers that do not arrive -------------------------------------------------------------------


def test_however_many_answers_are_lost_one_key_is_one_order(system: System) -> None:
    sku = a_sku(stock=100)

    with (
        a_peer(lost(system.url), lost(system.url), lost(system.url), passed_on(system.url)) as peer,
        Client(peer.url, system.api_key) as shop,
    ):
        placed = shop.place_order([(sku, 3)], key=uuid.uuid4().hex)
        ended = shop.ended(placed.order.id)
        available = shop.product(sku).available

    assert len([request for request in peer.requests if request.startswith(b"POST")]) == 4
    assert placed.replayed
    assert ended.status is Status.CONFIRMED
    assert available == 97


def test_however_many_answers_are_lost_one_key_is_one_movement(system: System) -> None:
    sku = a_sku(stock=100)

    with (
        a_peer(lost(system.url), lost(system.url), passed_on(system.url)) as peer,
        Client(peer.url, system.api_key) as shop,
    ):
        shop.move_stock(sku, 5, reason="delivery", key=uuid.uuid4().hex)
        available = shop.product(sku).available

    assert available == 105


class Forgetful(AsyncClient):
    """The mistake that the client is there to avoid: a new key for each try."""

    async def _try(  # type: ignore[override]
        self, kind: type, method: str, target: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> object:
        headers = {**headers, "Idempotency-Key": uuid.uuid4().hex}
        return await super()._try(kind, method, target, headers, body, timeout_s)


def test_with_a_new_key_for_each_try_the_same_losses_make_several_orders(system: System) -> None:
    sku = a_sku(stock=100)

    async def order() -> None:
        async with Forgetful(peer.url, system.api_key) as shop:
            await shop.ended((await shop.place_order([(sku, 3)], key="one")).order.id)

    with (
        a_peer(lost(system.url), lost(system.url), lost(system.url), passed_on(system.url)) as peer,
        Client(system.url, system.api_key) as shop,
    ):
        asyncio.run(order())
        wait_until(lambda: shop.product(sku).available == 100 - 4 * 3)


def test_a_hundred_calls_share_a_few_connections(system: System) -> None:
    sku = a_sku(stock=100)

    async def order_all() -> list[OrderAnswer]:
        async with AsyncClient(system.url, system.api_key, connections=8) as shop:

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
        an_answer(408),
        an_answer(500),
        an_answer(503),
        an_answer(200, b"<h1>Welcome to the guest network</h1>"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf" + HANG_UP,
        b"nonsense\r\n\r\n",
    ],
    ids=["hangs up", "408", "500", "503", "no order", "half an answer", "no HTTP"],
)
def test_an_order_without_a_clear_answer_is_sent_again_with_the_same_key(trouble: bytes) -> None:
    with a_peer(trouble, trouble, an_answer(202, BODY)) as peer, Client(peer.url, "k") as shop:
        placed = shop.place_order([("X", 1)], key="one-key", reference="PO-1")

    assert placed.order == ORDER
    assert len(peer.requests) == 3
    assert len(set(peer.requests)) == 1
    assert b'\r\nIdempotency-Key: "one-key"\r\n' in peer.requests[0]


def test_an_answer_that_does_not_come_is_given_up_and_asked_for_again() -> None:
    with a_peer(SILENCE, GOOD) as peer, Client(peer.url, "k", timeout_s=0.2) as shop:
        assert shop.order("1") == ORDER

    assert len(peer.requests) == 2
    assert peer.connections == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_shop_that_names_a_time_is_not_asked_before(status: int) -> None:
    with a_peer(an_answer(status, Retry_After="1"), GOOD) as peer, Client(peer.url, "k") as shop:
        shop.order("1")

    assert peer.arrived[1] - peer.arrived[0] >= 1


def test_patience_ends() -> None:
    with a_peer(an_answer(503)) as peer, Client(peer.url, "k", patience_s=1) as shop:
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"GET /api/v1/orders/1: no answer for 1 s, at last: HTTP 503"):
            shop.order("1")

    assert time.monotonic() - began < 3
    assert len(peer.requests) > 1


def test_patience_ends_while_nothing_comes_at_all() -> None:
    with a_peer(SILENCE) as peer, Client(peer.url, "k", patience_s=0.3) as shop:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="nothing came") as unavailable:
            shop.order("1")

    assert time.monotonic() - began < 2
    assert f"X-Request-ID: {unavailable.value.request_id}\r\n".encode() in peer.requests[0]


def test_patience_ends_while_others_hold_every_connection() -> None:
    async def ask_twice(url: str) -> list[object]:
        async with AsyncClient(url, "k", connections=1, patience_s=0.3) as shop:
            # The first one waits for longer, so that its connection is not free in the moment in which the second gives up.
            return await asyncio.gather(shop.order("1", wait_s=1), shop.order("2"), return_exceptions=True)

    with a_peer(SILENCE) as peer:
        ends = asyncio.run(asyncio.wait_for(ask_twice(peer.url), 5))

    assert [type(end) for end in ends] == [Unavailable, Unavailable]
    assert len(peer.requests) == 1


@pytest.mark.parametrize(
    ("slug", "kind"),
    [("rate-limited", Overloaded), ("queue-full", Overloaded), ("unavailable", Unavailable)],
)
def test_a_shop_that_takes_no_more_is_told_from_one_that_is_away(slug: str, kind: type) -> None:
    problem = {"type": slug, "title": "No", "status": 503, "detail": "Later."}

    with (
        a_peer(an_answer(503, msgspec.json.encode(problem), Retry_After="9")) as peer,
        Client(peer.url, "k", patience_s=1) as shop,
        pytest.raises(Unavailable) as error,
    ):
        shop.order("1")

    assert type(error.value) is kind
    assert error.value.problem
    assert error.value.problem.type == slug
    assert len(peer.requests) == 1  # the pause that was asked for is longer than our patience


def test_every_problem_of_the_catalogue_is_either_refused_or_repeated() -> None:
    repeated = {kind.slug for kind in Kind if kind.status >= 500 or kind.status in {408, 429}}

    assert set(REFUSALS) | repeated == {kind.slug for kind in Kind}
    assert not set(REFUSALS) & repeated


def test_an_address_that_has_moved_is_not_taken_for_an_answer() -> None:
    with (
        a_peer(an_answer(301, b"", Location="https://elsewhere.example/")) as peer,
        Client(peer.url, "k") as shop,
        pytest.raises(Refused),
    ):
        shop.order("1")

    assert len(peer.requests) == 1


def test_a_client_that_is_closed_lets_nobody_wait() -> None:
    with a_peer(SILENCE) as peer, Client(peer.url, "k") as shop, ThreadPoolExecutor(max_workers=1) as thread:
        waiting = thread.submit(shop.order, "1")
        wait_until(lambda: peer.requests)
        shop.close()

        with pytest.raises(Unavailable, match="was closed"):
            waiting.result(5)


def test_a_shop_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

    with Client(url, "k", patience_s=0.2) as shop, pytest.raises(Unavailable):
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
    with a_peer(answer) as peer, Client(peer.url, "k") as shop:
        assert shop.order("1") == ORDER
        assert shop.order("1") == ORDER


def test_a_connection_is_used_again() -> None:
    with a_peer(GOOD) as peer, Client(peer.url, "k") as shop:
        for _ in range(5):
            shop.order("1")

    assert peer.connections == 1


def test_a_connection_that_the_peer_closes_is_not_used_again() -> None:
    with (
        a_peer(an_answer(200, BODY, Connection="close") + HANG_UP) as peer,
        Client(peer.url, "k") as shop,
    ):
        for _ in range(3):
            shop.order("1")

    assert peer.connections == 3
    assert len(peer.requests) == 3


def test_no_more_connections_are_opened_than_allowed() -> None:
    async def ask_all(url: str) -> None:
        async with AsyncClient(url, "k", connections=3) as shop:
            await asyncio.gather(*(shop.order("1") for _ in range(30)))

    with a_peer(GOOD) as peer:
        asyncio.run(ask_all(peer.url))

    assert peer.connections <= 3
    assert len(peer.requests) == 30


def test_an_error_page_of_a_proxy_is_told_in_its_own_words() -> None:
    with (
        a_peer(an_answer(404, b"<h1>Nothing here</h1>")) as peer,
        Client(peer.url, "k") as shop,
        pytest.raises(Refused, match="404 no problem document: <h1>Nothing here</h1>"),
    ):
        shop.order("1")


def test_keys_with_quotes_are_escaped() -> None:
    with a_peer(an_answer(202, BODY)) as peer, Client(peer.url, "k") as shop:
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
def test_text_that_would_break_out_of_a_header_is_never_sent(act: Callable[[Client], object]) -> None:
    with (
        a_peer(GOOD) as peer,
        Client(peer.url, "k") as shop,
        pytest.raises(ValueError, match="must be visible ASCII"),
    ):
        act(shop)

    assert peer.requests == []


def test_an_order_id_cannot_leave_its_place_in_the_path() -> None:
    with a_peer(GOOD) as peer, Client(peer.url, "k") as shop:
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
