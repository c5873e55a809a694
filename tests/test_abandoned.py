"""Clients that leave before they are answered: what was held for them ends, and what they have asked for happens."""

import asyncio
import json
import socket
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from shop import results
from shop.clients import create_key
from shop.web import orders, server
from shop.web.application import application
from shop.web.connection import Connection
from shop.web.http import Request
from shop.web.problems import Problem
from shop.web.server import HttpServer
from tests.builders import accepted, an_order
from tests.running import frozen
from tests.test_web_stores import in_a_web_process
from workers.embedded import RedisServer

CROWD = 200
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Leave = Callable[[asyncio.StreamWriter], None]


@dataclass
class Web:
    """A server with the shop's own application, in the loop of the story that is told."""

    server: HttpServer
    port: int
    api_key: str
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def send(self, method: str, path: str, *headers: str, body: bytes = b"") -> Stream:
        """A request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {self.api_key}",
            *headers,
        ]
        self.writers.append(writer)
        writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)
        await writer.drain()
        return reader, writer

    async def place(self, key: str) -> Stream:
        """An order."""
        body = json.dumps({"items": [{"sku": "A", "quantity": 1}]}).encode()
        headers = [f"Idempotency-Key: {key}", "Content-Type: application/json", "Connection: close"]
        return await self.send("POST", "/api/v1/orders", *headers, body=body)


@asynccontextmanager
async def a_web(api_key: str) -> AsyncIterator[Web]:
    """Serve for the length of the block."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    serving = HttpServer(application, head_timeout_s=15, body_timeout_s=10, body_bytes_max=1_048_576)
    await serving.start(listener)
    web = Web(serving, listener.getsockname()[1], api_key)
    try:
        yield web
    finally:
        for writer in web.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        await serving.stop(drain=asyncio.sleep(0), within_s=0)


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it is of no single event
            await asyncio.sleep(0.01)
    assert condition(), what


def closes(writer: asyncio.StreamWriter) -> None:
    """Says that no more will come, as a client does that may still read."""
    writer.close()


def is_lost(writer: asyncio.StreamWriter) -> None:
    """Resets the connection."""
    its_socket = writer.get_extra_info("socket")
    its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.fixture
def name() -> str:
    """Of an API client."""
    return f"leaves-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def api_key(name: str) -> str:
    """Its key."""
    return create_key(name, ["orders"])


def waiters(order_id: str) -> int:
    """How many requests wait for the order."""
    return len(results.settlements._waiting.get(order_id, ()))


async def held(web: Web, order_id: str) -> list[Stream]:
    """Requests that wait for an order that nobody works on."""
    path = f"/api/v1/orders/{order_id}"
    streams = [await web.send("GET", path, "Prefer: wait=30") for _ in range(CROWD)]
    await until(lambda: waiters(order_id) == CROWD, "all of them wait")
    return streams


def story_of(order_id: str, api_key: str, leave: Leave, after: Callable[[Web], Awaitable[Any]]) -> Any:
    """A crowd waits and leaves; then what `after` finds."""

    async def story() -> Any:
        async with a_web(api_key) as web:
            for _, writer in await held(web, order_id):
                leave(writer)
            return await after(web)

    return in_a_web_process(story)


@pytest.mark.parametrize("leave", [closes, is_lost])
def test_a_wait_ends_with_its_connection(
    client: "redis.Redis", name: str, api_key: str, leave: Leave
) -> None:
    (order,) = accepted(client, an_order(("A", 1), client=name))

    async def after(web: Web) -> tuple[int, int, bool]:
        await until(lambda: not web.server.connections and not waiters(order.id), "the end of all waits")
        await until(lambda: len(asyncio.all_tasks()) < CROWD, "the end of all tasks")
        return len(web.server.connections), web.server.kept_bytes, results.settlements._waiting == {}

    assert story_of(order.id, api_key, leave, after) == (0, 0, True)


def test_without_this_it_would_go_on_for_nobody(
    client: "redis.Redis", name: str, api_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Request, "leave", lambda _: None)
    monkeypatch.setattr(results.settlements, "is_released", False)  # and again when this test is over
    (order,) = accepted(client, an_order(("A", 1), client=name))

    async def after(web: Web) -> int:
        await until(lambda: not web.server.connections, "the end of all connections")
        found = waiters(order.id)
        results.settlements.release()
        await until(lambda: not waiters(order.id), "the end of all waits")
        return found

    assert story_of(order.id, api_key, is_lost, after) == CROWD


def test_a_client_that_sends_no_more_and_still_reads_is_answered_at_once(
    client: "redis.Redis", name: str, api_key: str
) -> None:
    (order,) = accepted(client, an_order(("A", 1), client=name))

    async def story() -> bytes:
        async with a_web(api_key) as web:
            reader, writer = await web.send("GET", f"/api/v1/orders/{order.id}", "Prefer: wait=30")
            writer.write_eof()
            async with asyncio.timeout(10):
                return await reader.read()

    answer = in_a_web_process(story)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"queued"' in answer


def answer_to_one_too_many(api_key: str) -> bytes:
    """What a second connection reads where one is allowed."""

    async def story() -> bytes:
        async with a_web(api_key) as web:
            await web.send("GET", "/healthz")
            reader, _ = await web.send("GET", "/healthz")
            return await reader.read()

    answer: bytes = in_a_web_process(story)
    return answer


def test_a_connection_that_refused_by_itself_would_name_no_request(
    api_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(one: Connection, problem: Problem) -> None:
        one._transport.write(b"HTTP/1.1 %d \r\ncontent-length: 0\r\n\r\n" % problem.kind.status)
        one._end()

    monkeypatch.setattr(server, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(Connection, "_refuse", refuse)

    assert b"x-request-id" not in answer_to_one_too_many(api_key)


def test_a_client_that_finds_no_connection_is_told_when_to_come_again(
    api_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 1)

    answer = answer_to_one_too_many(api_key)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: " in answer
    assert b"x-request-id: " in answer
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(("first", "second"), [("gone", "stays"), ("stays", "gone")])
def test_an_order_whose_client_left_is_taken_and_so_are_those_that_came_with_it(
    client: "redis.Redis", redis_server: RedisServer, api_key: str, first: str, second: str
) -> None:
    async def answer(stream: Stream) -> bytes:
        return await stream[0].read()

    async def story() -> list[bytes]:
        async with a_web(api_key) as web:
            await answer(await web.place("the first one, which warms up"))
            with frozen(redis_server.pid):
                placed = {key: await web.place(key) for key in (first, second)}
                await until(lambda: orders.gate.inside == 2, "both orders wait for Redis")
                is_lost(placed["gone"][1])
                await until(lambda: len(web.server.connections) == 1, "the end of one connection")
            return [await answer(placed["stays"]), await answer(await web.place("gone"))]

    stayed, again = in_a_web_process(story)

    assert stayed.startswith(b"HTTP/1.1 202 ")
    assert again.startswith(b"HTTP/1.1 202 ")
    assert b"Idempotency-Replayed: true" in again
    assert b"Idempotency-Replayed" not in stayed
