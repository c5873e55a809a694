"""HTTP/1.1 as bytes (RFC 9112): requests built beforehand, answers read with as little work as possible."""

import json
import re
import socket
from collections.abc import Mapping
from typing import Any, Final

Address = tuple[str, int]

READ_BYTES: Final = 65_536
_ID: Final = re.compile(rb'"id": ?"([^"]+)"')


def request(
    method: str, path: str, address: Address, headers: Mapping[str, str], document: Any = None
) -> bytes:
    """A whole request; `document` goes as JSON."""
    body = b"" if document is None else json.dumps(document, separators=(",", ":")).encode()
    fields = {"Host": f"{address[0]}:{address[1]}", **headers}
    if document is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("ascii") + body


def connect(address: Address) -> socket.socket:
    """A connection that waits in `recv` and `sendall`: callers look first whether there is something to read."""
    connection = socket.create_connection(address, timeout=10)
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def is_whole(data: bytes) -> bool:
    """Whether the answer has come to its end. Raises ValueError for one that does not tell where that is.

    Of a chunked answer the last chunk ends it: no JSON ends like one.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = data[:end].lower()
    at = head.find(b"content-length: ")
    if at < 0 and b"transfer-encoding: chunked" in head:
        return data.endswith(b"\r\n0\r\n\r\n")
    if at < 0:
        raise ValueError(f"an answer without a length: {data[:200]!r}")
    stop = head.find(b"\r", at)
    return len(data) >= end + 4 + int(head[at + 16 : stop if stop > 0 else end])


def status(answer: bytes) -> int:
    """The status code of an answer."""
    return int(answer[9:12])


def order_id(answer: bytes) -> str:
    """The id in an answer. Raises ValueError where there is none."""
    found = _ID.search(answer)
    if found is None:
        raise ValueError(f"an answer without an id: {answer[-200:]!r}")
    return found[1].decode()
