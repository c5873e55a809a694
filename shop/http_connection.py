"""HTTP/1.1 on asyncio streams (RFC 9112): connections that are kept open and used again, and not too many."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Self
from urllib.parse import urljoin, urlsplit


class ProtocolError(Exception):
    """What came is no HTTP/1.1 answer."""


class Answer(NamedTuple):
    """An answer; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where requests go (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """The origin that a URL names. Raises `ValueError` where it names more or less than that."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
            raise ValueError(f"{url!r} is no address like http://127.0.0.1:8000")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(scheme=parts.scheme, host=parts.hostname, port=port)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port, as a Host header has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def target(self, reference: str) -> str:
        """What to ask for to follow a link in an answer. Raises `ValueError` if it leads away from here."""
        parts = urlsplit(urljoin(str(self), reference))
        if Origin.of(f"{parts.scheme}://{parts.netloc}") != self:
            raise ValueError(f"{reference!r} leads away from {self}")
        return f"{parts.path}?{parts.query}" if parts.query else parts.path


class Connection:
    """One connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, origin: Origin) -> Self:
        """Connect. Raises `OSError`."""
        context = _tls() if origin.scheme == "https" else None
        return cls(*await asyncio.open_connection(origin.host, origin.port, ssl=context))

    async def ask(self, request: bytes) -> tuple[Answer, bool]:
        """The answer, and whether the connection may be used again.

        Raises `OSError`, `EOFError`, `ProtocolError`.
        """
        self._writer.write(request)
        await self._writer.drain()
        status, headers = await self._head()
        while 100 <= status < 200:
            status, headers = await self._head()
        body, has_end = await self._body(status, headers)
        return Answer(status, headers, body), has_end and headers.get("connection", "").lower() != "close"

    def is_open(self) -> bool:
        """Whether the other side has not closed it yet, as far as is known."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    def close(self) -> None:
        """Close it without waiting."""
        self._writer.close()

    async def _head(self) -> tuple[int, dict[str, str]]:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise ProtocolError("the head of the answer is too long") from error
        first, *fields = head[:-4].decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if not words[0].startswith("HTTP/1.") or len(words) < 2 or not words[1].isdigit():
            raise ProtocolError(f"{first[:60]!r} is no status line")
        pairs = (field.partition(":") for field in fields)
        return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}

    async def _body(self, status: int, headers: Mapping[str, str]) -> tuple[bytes, bool]:
        """The body, and whether its end was told by more than the end of the connection (RFC 9112, 6.3)."""
        if status in {204, 304}:
            return b"", True
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await self._chunks(), True
        if "content-length" in headers:
            return await self._reader.readexactly(_number(headers["content-length"], 10)), True
        return await self._reader.read(), False

    async def _chunks(self) -> bytes:
        body = bytearray()
        while size := _number((await self._line()).partition(";")[0].strip(), 16):
            body += await self._reader.readexactly(size)
            await self._line()
        while await self._line():  # trailers
            continue
        return bytes(body)

    async def _line(self) -> str:
        try:
            return (await self._reader.readuntil(b"\r\n"))[:-2].decode("latin-1")
        except asyncio.LimitOverrunError as error:
            raise ProtocolError("a line of the answer is too long") from error


class Pool:
    """Requests to one origin over at most `size` connections."""

    def __init__(self, origin: Origin, size: int) -> None:
        self.origin = origin
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(size)

    async def ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float
    ) -> Answer:
        """One request, once. Raises `OSError` (also for the time-out), `EOFError`, `ProtocolError`."""
        fields = {"Host": self.origin.authority, **headers}
        if body or method == "POST":
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        request = "\r\n".join([*lines, "", ""]).encode("ascii") + body
        async with self._free, asyncio.timeout(timeout_s):
            connection = self._kept() or await Connection.open(self.origin)
            try:
                answer, reusable = await connection.ask(request)
            except BaseException:
                # Whatever is still to come on it belongs to the request that was given up.
                connection.close()
                raise
            if reusable:
                self._idle.append(connection)
            else:
                connection.close()
            return answer

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
            connection.close()
        return None


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _number(text: str, radix: int) -> int:
    """A length. Python's `int` would also take signs, blanks and underscores."""
    if not text.isalnum() or not text.isascii():
        raise ProtocolError(f"{text[:20]!r} is no length")
    try:
        return int(text, radix)
    except ValueError as error:
        raise ProtocolError(f"{text[:20]!r} is no length") from error
