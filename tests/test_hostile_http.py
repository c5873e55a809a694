"""Senders that keep to no rule of HTTP: slow, endless, broken, or very many. None gets a 500, holds a connection for
ever, or keeps others waiting."""

import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from shop.clients import create_key
from shop.web.connection import DISCARD_BYTES, PARTS_MAX, TARGET_BYTES_MAX
from shop.web.parsing import cursor_after
from tests.builders import a_sku, wait_until
from tests.raw_http import chunked, connected, exchange, head, order_head, read_reply, trickle
from tests.running import System

HEAD_TIMEOUT_S, BODY_TIMEOUT_S = 2, 2
#: Patience of these tests with a server that should have hung up long before.
AT_MOST_S = 8.0
ORDER = json.dumps({"items": [{"sku": "X", "quantity": 1}]}).encode()


@contextmanager
def a_web(folder: Path, module: str = "shop.web", **env: str) -> Iterator[System]:
    """A web process that soon loses its patience."""
    env = {
        "HEAD_TIMEOUT_S": str(HEAD_TIMEOUT_S),
        "BODY_TIMEOUT_S": str(BODY_TIMEOUT_S),
        "REFUSED_RATE_LIMIT": "50",
        **env,
    }
    with System(folder, env=env, web_module=module) as running:
        yield running.start("web")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Shared by the tests of this module."""
    with a_web(tmp_path_factory.mktemp("web")) as running:
        yield running
        assert "unexpected error" not in running.log("web")


@contextmanager
def without_guard(folder: Path, guard: str) -> Iterator[System]:
    """The same, one guard taken away."""
    with a_web(folder, "tests.unguarded_web", UNGUARDED=guard) as running:
        yield running


# --- slow senders ---------------------------------------------------------------------------------

#: How a request begins, and what comes of it now and then.
SLOW_HEADS = {
    "nothing": (b"", b""),
    "one letter": (b"G", b""),
    "a header without end": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"x"),
    "headers without end": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"X: x\r\n"),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
    "a request, and nothing after it": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
}


@pytest.mark.parametrize("name", SLOW_HEADS)
def test_who_sends_no_head_is_cut_off(web: System, name: str) -> None:
    reply = trickle(web, *SLOW_HEADS[name], every_s=0.3, at_most_s=AT_MOST_S)

    assert reply.status in ({200} if "after" in name else {0, 400, 408})


def test_without_a_time_limit_a_silent_connection_stays(tmp_path: Path) -> None:
    with without_guard(tmp_path, "time") as web, pytest.raises(TimeoutError):
        trickle(web, b"", b"", every_s=0.3, at_most_s=3 * HEAD_TIMEOUT_S)


SLOW_BODIES = {
    "a byte now and then": ("Content-Length: 1000", b" "),
    "a chunk now and then": ("Transfer-Encoding: chunked", b"1\r\n \r\n"),
    "no byte": ("Content-Length: 1000", b""),
    "an endless line of chunk size": ("Transfer-Encoding: chunked", b"0"),
}


@pytest.mark.parametrize("name", SLOW_BODIES)
def test_who_sends_its_body_too_slowly_hears_408_and_is_cut_off(web: System, name: str) -> None:
    framing, drop = SLOW_BODIES[name]

    reply = trickle(web, order_head(web, framing, close=False), drop, every_s=0.3, at_most_s=AT_MOST_S)

    assert (reply.status, reply.problem) in {(408, "request-timeout"), (400, "incomplete-body")}


def test_pages_have_no_more_patience_with_slow_bodies(web: System) -> None:
    begun = head(web, "POST /admin/login/ HTTP/1.1", "Content-Length: 1000", close=False)

    reply = trickle(web, begun, b"x", every_s=0.3, at_most_s=AT_MOST_S)

    assert (reply.status, reply.problem) == (408, "request-timeout")


def test_without_a_time_limit_a_slow_body_holds_its_connection(tmp_path: Path) -> None:
    with without_guard(tmp_path, "time") as web, pytest.raises(TimeoutError):
        trickle(web, order_head(web, "Content-Length: 1000"), b" ", every_s=0.3, at_most_s=2 * BODY_TIMEOUT_S)


@pytest.mark.parametrize("what", ["heads", "bodies"])
def test_others_are_served_while_hundreds_send_slowly_and_all_of_those_are_cut_off(
    web: System, what: str
) -> None:
    sku = a_sku()
    begun = order_head(web, "Content-Length: 1000") if what == "bodies" else b"POST /api/v1/orders HT"
    with ExitStack() as opened:
        slow = [opened.enter_context(connected(web, AT_MOST_S)) for _ in range(400)]
        for connection in slow:
            connection.sendall(begun)

        served = [web.place((sku, 1)).status for _ in range(10)]
        replies = [read_reply(connection, time.monotonic()) for connection in slow]

    assert served == [202] * 10
    assert {reply.status for reply in replies} <= ({408} if what == "bodies" else {0, 408})


# --- more than is wanted --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/api/v1/orders", "/api/v1/products", "/admin/login/", "/nowhere", "/healthz"]
)
@pytest.mark.parametrize("size", [10_000_000, 10 * DISCARD_BYTES])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_body_that_is_too_large_is_refused_everywhere(
    web: System, path: str, size: int, framing: str
) -> None:
    part = b"x" * 1_000_000
    parts = [part] * (size // len(part))
    told = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"

    reply = exchange(
        web,
        head(web, f"POST {path} HTTP/1.1", told),
        *(parts if framing == "length" else [chunked(parts)]),
    )

    # Beyond what is thrown away the connection breaks, and the answer may break with it.
    assert (reply.status, reply.problem) in {(413, "payload-too-large")} | (
        {(0, "")} if size > DISCARD_BYTES else set()
    )


def test_without_a_limit_of_size_a_large_body_is_taken(tmp_path: Path) -> None:
    with without_guard(tmp_path, "size") as web:
        body = json.dumps({"items": [{"sku": a_sku(), "quantity": 1}]}).encode() + b" " * 2_000_000

        reply = exchange(web, order_head(web, f"Content-Length: {len(body)}"), body)

        assert reply.status == 202


def test_a_large_body_is_not_kept(web: System) -> None:
    def peak_bytes() -> int:
        status = Path(f"/proc/{web.pids('web')[-1]}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    before = peak_bytes()
    for _ in range(5):
        exchange(web, order_head(web, "Content-Length: 16000000"), b"x" * 16_000_000)

    assert peak_bytes() - before < 16_000_000


def in_bytes(body: bytes, size: int) -> bytes:
    """A body padded to a size, each byte a chunk of its own."""
    padded = b" " * (size - len(body)) + body
    return chunked([padded[at : at + 1] for at in range(size)])


def test_a_body_in_single_bytes_is_read_up_to_a_limit_only(web: System) -> None:
    body = json.dumps({"items": [{"sku": a_sku(), "quantity": 1}]}).encode()
    begun = order_head(web, "Transfer-Encoding: chunked")

    few = exchange(web, begun, in_bytes(body, PARTS_MAX // 2))
    many = exchange(web, begun, in_bytes(body, 2 * PARTS_MAX))

    assert few.status == 202
    assert (many.status, many.problem) == (413, "payload-too-large")


def test_without_a_limit_of_parts_a_body_in_single_bytes_is_read_to_its_end(tmp_path: Path) -> None:
    with without_guard(tmp_path, "parts") as web:
        body = json.dumps({"items": [{"sku": a_sku(), "quantity": 1}]}).encode()

        reply = exchange(web, order_head(web, "Transfer-Encoding: chunked"), in_bytes(body, 2 * PARTS_MAX))

        assert reply.status == 202


@pytest.mark.parametrize(
    ("name", "headers", "statuses"),
    [
        ("ten thousand headers", [f"X-{n}: x" for n in range(10_000)], {431}),
        ("a hundred and one headers", [f"X-{n}: x" for n in range(101)], {431}),
        ("a header of a megabyte", ["X: " + "x" * 1_000_000], {431}),
        ("a header of a hundred kilobytes", ["X: " + "x" * 100_000], {404, 431}),
        ("a name of sixty kilobytes", ["x" * 60_000 + ": x"], {400, 404, 431}),
        ("the same header fifty times", ["Prefer: wait=1"] * 50, {404}),
        ("a wait of fifty kilobytes", ["Prefer: " + ",wait=" * 8_000], {404}),
        ("quotes that do not end", ["Prefer: " + '"\\' * 25_000], {404}),
        ("tags without end", ["If-None-Match: " + ',"' * 25_000], {404}),
        ("a second key", ["Authorization: Bearer " + "x" * 50_000], {401}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_flood_of_headers_is_refused_or_ignored(
    web: System, name: str, headers: list[str], statuses: set[int]
) -> None:
    reply = exchange(web, head(web, f"GET /api/v1/orders/{uuid.uuid4()} HTTP/1.1", *headers))

    assert reply.status in statuses
    assert web.get("/healthz").status == 200


#: As long as a header may be that is looked into, each blank between two semicolons.
BLANKS = "application/json" + "; " * 503 + "@"


def statuses_beside(web: System, content_type: str, patience_s: float) -> tuple[int, int]:
    """The answer to an order that came after one of this type, and then to that one."""
    hostile = head(
        web,
        "POST /api/v1/orders HTTP/1.1",
        f"Idempotency-Key: {uuid.uuid4().hex}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(ORDER)}",
    )
    order = order_head(web, f"Content-Length: {len(ORDER)}")
    with connected(web, patience_s) as connection:
        connection.sendall(hostile + ORDER)
        placed = exchange(web, order, ORDER, timeout_s=patience_s)
        return placed.status, read_reply(connection, time.monotonic()).status


def test_an_order_is_accepted_at_once_while_a_header_of_full_length_is_read(web: System) -> None:
    assert statuses_beside(web, BLANKS, AT_MOST_S) == (202, 415)


@pytest.mark.parametrize("path", ["/watch/orders/" + str(uuid.UUID(int=0)), "/basket"])
def test_an_order_is_accepted_at_once_while_cookies_of_full_length_are_read(web: System, path: str) -> None:
    hostile = head(web, f"GET {path} HTTP/1.1", 'Cookie: buyer="' + "\\" * 60_000 + '"')
    with connected(web, AT_MOST_S) as connection:
        connection.sendall(hostile)
        placed = exchange(web, order_head(web, f"Content-Length: {len(ORDER)}"), ORDER, timeout_s=AT_MOST_S)

        assert (placed.status, read_reply(connection, time.monotonic()).status in {200, 404}) == (202, True)


def test_with_a_pattern_that_tries_every_reading_nothing_else_is_answered(tmp_path: Path) -> None:
    with without_guard(tmp_path, "linear patterns") as web:
        with pytest.raises(TimeoutError):
            statuses_beside(web, BLANKS, patience_s=2)
        web.kill("web")  # it hears nothing else


@pytest.mark.parametrize(
    "path", ["/" + "x" * 70_000, "/healthz?" + "x" * 70_000, "/api/v1/products?" + "q=x&" * 9000]
)
def test_an_address_without_end_is_refused(web: System, path: str) -> None:
    reply = exchange(web, head(web, f"GET {path} HTTP/1.1"))

    assert reply.status in {400, 414}


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"/api/v1/products/{quote(64 * '🧦')}/stock-movements", 405),
        (f"/api/v1/products?q={quote(255 * '🧦')}&limit=500&cursor={cursor_after(64 * '🧦')}", 200),
    ],
    ids=["of a path", "of a query"],
)
def test_the_longest_address_that_the_api_has_is_taken(web: System, target: str, status: int) -> None:
    assert len(target) < TARGET_BYTES_MAX / 2
    assert exchange(web, head(web, f"GET {target} HTTP/1.1")).status == status


# --- refused requests -----------------------------------------------------------------------------

#: 1 MiB that is refused after it was looked into for as long as possible.
CROWDED = b'{"items":[' + b"{}," * 349_000 + b"{}]}"
#: Three of them may be refused at once, and hardly one a second afterwards.
MORE_THAN_MAY_BE = 6


def crowded_status(web: System) -> int:
    """The answer to a body of 1 MiB that is no order."""
    return exchange(web, order_head(web, f"Content-Length: {len(CROWDED)}"), CROWDED).status


def test_a_client_whose_requests_are_refused_again_and_again_has_to_wait_and_others_do_not(
    web: System,
) -> None:
    web.api_key, ours = create_key(f"careless-{uuid.uuid4().hex[:8]}", ["orders"]), web.api_key
    key = uuid.uuid4().hex
    try:
        assert crowded_status(web) == 422
        wait_until(lambda: crowded_status(web) == 429, what="a refusal that is not looked into")
        refused = web.place(("X", 1), key=key)
        others = web.send("POST", "/api/v1/orders", ORDER, {"Idempotency-Key": key}, api_key=ours)
        wait_until(lambda: web.place(("X", 1), key=key).status == 202, what="room for one request")
    finally:
        web.api_key = ours

    assert (refused.status, refused.body["type"], others.status) == (429, "rate-limited", 202)
    assert 1 <= int(refused.headers["Retry-After"]) <= 6


def test_without_a_rate_of_refusals_all_of_them_are_looked_into(tmp_path: Path) -> None:
    with without_guard(tmp_path, "rate of refusals") as web:
        assert {crowded_status(web) for _ in range(MORE_THAN_MAY_BE)} == {422}


# --- what is no HTTP ------------------------------------------------------------------------------

#: Where a body ends is the table's matter (`tests/http_inputs.py`); here is what such a client reads.
MISFRAMED: dict[str, tuple[list[str], bytes, str]] = {
    "two lengths": (["Content-Length: 3", "Content-Length: 4"], ORDER, "malformed-request"),
    "a length and chunks": (["Content-Length: 3", "Transfer-Encoding: chunked"], ORDER, "malformed-request"),
    "a coding before chunks": (["Transfer-Encoding: gzip, chunked"], chunked([ORDER]), "malformed-request"),
    "a chunk of no size": (["Transfer-Encoding: chunked"], b"zz\r\n{}\r\n0\r\n\r\n", "incomplete-body"),
}


@pytest.mark.parametrize("name", MISFRAMED)
def test_a_body_whose_end_is_unclear_is_refused_and_its_connection_closed(web: System, name: str) -> None:
    headers, body, problem = MISFRAMED[name]

    reply = exchange(web, order_head(web, *headers, close=False), body, b"GET /healthz HTTP/1.1\r\n\r\n")

    assert (reply.status, reply.problem) == (400, problem)
    assert b"HTTP/1.1 200" not in reply.body  # what followed was not taken for a request


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind(web: System) -> None:
    for _ in range(50):
        with connected(web) as connection:
            connection.sendall(order_head(web, "Content-Length: 1000") + b'{"items"')
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    assert web.place((a_sku(), 1)).status == 202
    assert "Traceback" not in web.log("web")


#: Requests that the connection itself refuses.
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "no HTTP": (b"*3\r\n$3\r\nSET\r\n", 400, "malformed-request"),
    "no Host": (b"GET /healthz HTTP/1.1\r\nX-Request-ID: mine\r\n\r\n", 400, "malformed-request"),
    "bytes that are not percent-encoded": (
        "GET /api/v1/products?q=Grüße HTTP/1.1\r\n".encode(),
        400,
        "malformed-request",
    ),
    "a long address": (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n", 414, "address-too-long"),
    "many fields": (
        b"GET / HTTP/1.1\r\nX-Request-ID: mine\r\n" + b"X: y\r\n" * 101,
        431,
        "head-too-large",
    ),
    "a head that does not end": (b"GET / HTTP/1.1\r\nX-Request-ID: mine\r\nX: ", 408, "request-timeout"),
    "an unknown method": (
        b"BREW /nowhere HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\nConnection: close\r\n\r\n",
        404,
        "not-found",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_refusal_is_a_problem_with_a_request_id(web: System, name: str) -> None:
    sent, status, problem = REFUSED[name]

    reply = exchange(web, sent, timeout_s=AT_MOST_S)

    assert (reply.status, reply.problem) == (status, problem)
    assert re.fullmatch("mine" if b"mine" in sent else "[0-9a-f]{32}", reply.headers["x-request-id"])
    assert reply.headers["cache-control"] == "no-store"


def test_a_refused_request_for_a_head_alone_gets_no_body(web: System) -> None:
    reply = exchange(web, b"HEAD / HTTP/1.1\r\n\r\n", timeout_s=AT_MOST_S)

    assert (reply.status, reply.body) == (400, b"")


def test_held_requests_with_bodies_that_nobody_reads_take_no_memory(web: System) -> None:
    def kept_bytes() -> int:
        status = Path(f"/proc/{web.pids('web')[-1]}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    placed = web.place((a_sku(), 1)).body["href"]
    held = head(web, f"GET {placed} HTTP/1.1", "Prefer: wait=5", "Content-Length: 1000000", close=False)
    before = kept_bytes()
    with ExitStack() as opened:
        for _ in range(60):
            opened.enter_context(connected(web)).sendall(held + b"x" * 1_000_000)
        web.get("/healthz")

        assert kept_bytes() - before < 30_000_000


@pytest.mark.parametrize(
    "path", ["/api/v1/orders", "/api/v1/products", "/healthz", "/metrics", "/api/docs", "/*"]
)
@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "PATCH", "DELETE", "PUT", "F~O", "get", "CONNECT"])
def test_a_method_that_nobody_expects_is_refused(web: System, path: str, method: str) -> None:
    reply = exchange(web, head(web, f"{method} {path} HTTP/1.1"), timeout_s=AT_MOST_S)

    assert (reply.status, reply.problem) in (
        {(400, "malformed-request")}
        if method == "CONNECT"
        else {(405, "method-not-allowed"), (404, "not-found")}
    )


@pytest.mark.parametrize(
    "path", ["%00", "%ff", "%ed%a0%80", "%0d%0aX-Evil:%20x", "..%2f..%2fetc%2fpasswd", "%", "%zz", "{}", "*"]
)
@pytest.mark.parametrize("root", ["/", "/api/v1/products/", "/api/v1/orders/", "/static/", "/admin/"])
def test_an_odd_address_leads_nowhere(web: System, root: str, path: str) -> None:
    reply = exchange(web, head(web, f"GET {root}{path} HTTP/1.1"))

    assert reply.status in ({302, 404} if root == "/admin/" else {404})
    assert "x-evil" not in reply.headers


# --- very many connections ------------------------------------------------------------------------


@contextmanager
def started_with_few_files(
    most: int, start: Callable[[], AbstractContextManager[System]]
) -> Iterator[System]:
    """A web process that could have only so many open files, unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as opened:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        try:
            web = opened.enter_context(start())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        yield web


def test_a_process_takes_as_many_connections_as_it_is_allowed_to_have(tmp_path: Path) -> None:
    with started_with_few_files(200, lambda: a_web(tmp_path)) as web, ExitStack() as opened:
        for _ in range(400):
            opened.enter_context(connected(web))

        assert web.get("/healthz").status == 200


def test_without_more_open_files_the_next_connection_ends_without_an_answer(tmp_path: Path) -> None:
    with (
        started_with_few_files(200, lambda: without_guard(tmp_path, "open files")) as web,
        ExitStack() as opened,
    ):
        for _ in range(400):
            opened.enter_context(connected(web))

        reply = exchange(web, head(web, "GET /healthz HTTP/1.1"))

    assert reply.status == 0


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be_and_never_lowered() -> None:
    program = (
        "import resource; from workers.open_files import allow_open_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))\n"
        "print(allow_open_files(150), allow_open_files(120), allow_open_files(10_000))\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )

    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=os.getcwd()
    )

    assert told.stdout.split() == ["150", "150", "200", "200", "200"]
