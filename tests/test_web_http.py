"""HTTP as the API reads and answers it, down to the bytes."""

import json
import socket
import uuid
from collections.abc import Sequence

import pytest

from shop.web.http import Request
from shop.web.problems import Kind, Problem, response
from tests.builders import a_sku
from tests.running import System


def a_request(*headers: tuple[bytes, bytes], query: bytes = b"") -> Request:
    """A request with these headers."""
    sent: dict[bytes, list[str]] = {}
    for name, value in headers:
        sent.setdefault(name, []).append(value.decode())
    return Request(method="GET", path="/x", query_string=query, headers=sent)


def test_a_header_that_was_sent_once_is_its_value_and_one_that_was_not_is_empty() -> None:
    request = a_request((b"prefer", b"wait=5"))

    assert (request.header(b"prefer"), request.sent(b"prefer")) == ("wait=5", ["wait=5"])
    assert (request.header(b"authorization"), request.sent(b"authorization")) == ("", [])


def test_a_header_that_was_sent_twice_shows_that_it_was() -> None:
    request = a_request((b"if-none-match", b'"a"'), (b"x", b"y"), (b"if-none-match", b'"b"'))

    assert request.sent(b"if-none-match") == ['"a"', '"b"']
    assert request.header(b"if-none-match") == '"a","b"'


def test_query_parameters_are_decoded() -> None:
    assert a_request(query=b"q=%C3%BC+x&limit=5").query.dict() == {"q": "\u00fc x", "limit": "5"}


def test_headers_of_one_answer_are_not_those_of_the_next() -> None:
    first = response(Problem(kind=Kind.UNAUTHORIZED))
    first.headers["X-Request-ID"] = "first"

    assert "X-Request-ID" not in response(Problem(kind=Kind.UNAUTHORIZED)).headers


def answer_to(system: System, head: Sequence[str], *parts: bytes) -> tuple[list[str], bytes]:
    """Head (status line, then headers) and body of the answer to a request that is sent in these parts."""
    lines = [*head, "Host: localhost", f"Authorization: Bearer {system.api_key}", "Connection: close", "", ""]
    with socket.create_connection(("127.0.0.1", system.port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall("\r\n".join(lines).encode())
        for part in parts:
            connection.sendall(part)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    answer_head, _, body = received.partition(b"\r\n\r\n")
    return answer_head.decode().split("\r\n"), body


@pytest.mark.parametrize("size", [1, 40, 1000])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_an_order_may_arrive_in_parts_of_any_size(system: System, framing: str, size: int) -> None:
    items = [{"sku": a_sku(), "quantity": number} for number in (1, 2)]
    body = json.dumps({"items": items}).encode()
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    head = [
        "POST /api/v1/orders HTTP/1.1",
        f"Idempotency-Key: {uuid.uuid4().hex}",
        "Content-Type: application/json",
    ]
    if framing == "length":
        head.append(f"Content-Length: {len(body)}")
    else:
        head.append("Transfer-Encoding: chunked")
        parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts] + [b"0\r\n\r\n"]

    (status, *_), answer = answer_to(system, head, *parts)

    assert (status, json.loads(answer)["items"]) == ("HTTP/1.1 202 Accepted", items)


def test_a_request_for_the_head_is_told_the_length_of_the_body_and_gets_none(system: System) -> None:
    (_, *told), whole = answer_to(system, ["GET /healthz HTTP/1.1"])
    (status, *told_of_head), none = answer_to(system, ["HEAD /healthz HTTP/1.1"])

    assert (status, none) == ("HTTP/1.1 200 OK", b"")
    assert f"content-length: {len(whole)}" in told
    assert f"content-length: {len(whole)}" in told_of_head
