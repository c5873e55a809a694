"""HTTP connections served in a thread of the tests, by `HttpServer` itself and an application whose answers are simple."""

import asyncio
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvloop

from shop.web.http import Answer, Request
from shop.web.problems import Problem
from shop.web.problems import response as problem_answer
from shop.web.server import HttpServer

HEAD_TIMEOUT_S, BODY_TIMEOUT_S, BODY_BYTES_MAX = 1, 1, 1_048_576
#: More than the kernel takes on a connection whose client does not read.
MUCH = 8_000_000


class Served:
    """A server in a thread of its own. `heard`: requests that came to its application; `refused`: why others did not come
    to their ends; `errors`: what asyncio had to say."""

    def __init__(self) -> None:
        self.heard: list[Request] = []
        self.refused: list[str] = []
        self.errors: list[dict[str, Any]] = []
        self.may_answer = threading.Event()
        self.server: HttpServer
        self.port = 0

    async def answer(self, request: Request) -> Answer:
        """What the path says: so many bytes; an answer that waits; one that can't be sent; or the path itself."""
        if request.fault:
            assert isinstance(request.fault, Problem)
            self.refused.append(request.fault.kind.slug)
            return problem_answer(request.fault)
        self.heard.append(request)
        match request.path.split("/")[1:]:
            case ["bytes", count]:
                return Answer(b"x" * int(count))
            case ["waits"]:
                await asyncio.to_thread(self.may_answer.wait)
            case ["split"]:
                return Answer(headers={"X": "a\r\nb"})
            case ["cancelled"]:
                raise asyncio.CancelledError
            case ["unmodified"]:
                return Answer(b"a body that is none", 304)
        return Answer(f"<{request.method} {request.path}>".encode())

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self.server.connections)


@contextmanager
def serving(answer: Callable[[Request], Awaitable[Answer]] | None = None) -> Iterator[Served]:
    """Serve for the length of the block."""
    served = Served()
    is_up, is_over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        served.port = listener.getsockname()[1]
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: served.errors.append(context))
        served.server = HttpServer(
            answer or served.answer,
            head_timeout_s=HEAD_TIMEOUT_S,
            body_timeout_s=BODY_TIMEOUT_S,
            body_bytes_max=BODY_BYTES_MAX,
        )
        await served.server.start(listener)
        is_up.set()
        await is_over.wait()
        await served.server.stop(drain=asyncio.sleep(0), within_s=0)

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    is_up.wait()
    try:
        yield served
    finally:
        served.may_answer.set()
        served.server.loop.call_soon_threadsafe(is_over.set)
        thread.join()


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    """A connection whose client takes little unless it reads."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", served.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    """A request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server hangs up. Raises TimeoutError where it does not."""
    received = bytearray()
    with suppress(ConnectionError):
        while part := connection.recv(1_000_000):
            received += part
    return bytes(received)


def statuses(received: bytes) -> list[int]:
    """Of the answers in what came."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", received)]
