"""HTTP down to the bytes: requests that no decent client would send, and what came back on the connection."""

import json
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tests.running import System


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came until the server hung up. `status` is 0 where it hung up without a word."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def problem(self) -> str:
        """The type of the problem it tells, '' where it tells none."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        return str(document["type"])


def head(system: System, start: str, *headers: str | bytes, close: bool = True) -> bytes:
    """A request's head for this system, with a good API key."""
    lines: list[str | bytes] = [start, "Host: localhost", f"Authorization: Bearer {system.api_key}", *headers]
    lines += ["Connection: close"] if close else []
    raw = [line if isinstance(line, bytes) else line.encode() for line in lines]
    return b"\r\n".join([*raw, b"", b""])


def order_head(system: System, *headers: str | bytes, key: str = "", close: bool = True) -> bytes:
    """The head of a request that places an order, all of it but the framing of the body."""
    ours = [f"Idempotency-Key: {key or uuid.uuid4().hex}", "Content-Type: application/json"]
    return head(system, "POST /api/v1/orders HTTP/1.1", *ours, *headers, close=close)


@contextmanager
def connected(system: System, timeout_s: float = 20) -> Iterator[socket.socket]:
    """A connection to the web process."""
    with socket.create_connection(("127.0.0.1", system.port), timeout=timeout_s) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def exchange(system: System, *parts: bytes, timeout_s: float = 20) -> Reply:
    """Send these parts and read until the server hangs up. Raises TimeoutError where it does not."""
    with connected(system, timeout_s) as connection:
        began = time.monotonic()
        with suppress(ConnectionError):  # it may refuse what it has not read to its end
            for part in parts:
                connection.sendall(part)
        return read_reply(connection, began)


def trickle(system: System, begun: bytes, drop: bytes, *, every_s: float, at_most_s: float) -> Reply:
    """Send the begin of a request, then a drop of it now and then, until the server hangs up.

    Raises TimeoutError where it does not within `at_most_s`.
    """
    with connected(system, every_s) as connection:
        began = time.monotonic()
        connection.sendall(begun)
        received = b""
        while time.monotonic() - began < at_most_s:
            try:
                part = connection.recv(65536)
                received += part
                if not part:
                    return _reply(received, time.monotonic() - began)
            except TimeoutError:
                with suppress(ConnectionError):
                    connection.sendall(drop)
            except ConnectionError:
                return _reply(received, time.monotonic() - began)
    raise TimeoutError(f"still connected after {at_most_s} s")


def read_reply(connection: socket.socket, began: float) -> Reply:
    """What comes until the server hangs up."""
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            received += part
    return _reply(received, time.monotonic() - began)


def _reply(received: bytes, seconds: float) -> Reply:
    lines, _, body = received.partition(b"\r\n\r\n")
    status, *headers = lines.decode("latin-1").split("\r\n")
    named = (line.partition(": ") for line in headers)
    return Reply(
        status=int(status.split(" ")[1]) if received else 0,
        headers={name.lower(): value for name, _, value in named},
        body=body,
        seconds=seconds,
    )


def chunked(parts: Sequence[bytes]) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
