"""HTTP/1.1 on a connection: from bytes to requests, and from answers to bytes (RFC 9112).

llhttp, the parser of Node.js, reads, by way of httptools; how a message is framed is its word, but for codings before
chunks, which are refused. What it does not know is here: how large a head or a body may be, how long it may take to
arrive, that answers go out in the order of their requests, and how a connection ends.
"""

import asyncio
import math
import re
from collections import deque
from contextvars import Context
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
    parse_url,
)

from shop.web.http import Answer, Request
from shop.web.problems import Kind, Problem

if TYPE_CHECKING:
    from shop.web.server import HttpServer

#: Bytes of a head, and fields in it.
HEAD_BYTES_MAX: Final = 65_536
FIELDS_MAX: Final = 100
#: A client that is still sending does not read: a body that is too large is taken in, and thrown away, up to this size
#: before the answer says so. Beyond it the connection breaks.
DISCARD_BYTES: Final = 16 * 1_048_576
#: Each part of a body costs as much as a small request. Networks cut 1 MiB into some 700 parts.
PARTS_MAX: Final = 10_000
#: Of what comes with a body and is none of it: sizes and extensions of chunks, and fields after it.
FRAMING_BYTES_MAX: Final = 1_048_576
#: What all connections of a process may keep of bodies that have not ended, or whose turn has not come. Beyond it, small
#: bodies alone are taken: buyers' orders go on while somebody sends the begins of very many large ones.
KEPT_BYTES_MAX: Final = 128 * 1_048_576
SMALL_BODY_BYTES: Final = 16_384
#: Requests of one connection that wait for those before them, if their bodies are no larger than one may be; then no more
#: are read.
PIPELINED_MAX: Final = 64
#: For how long a connection whose client may still be sending stays after the last answer, so that this is read.
LINGER_S: Final = 2.0
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_BODILESS: Final = {204, 304}
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}) (/[!-~]{0,2000}) HTTP/1\.[01]\r\n")


class _Cut(Exception):
    """Nothing more is to be read from this connection. `status`: what is said then, where no request can be answered."""

    def __init__(self, status: int = 0) -> None:
        super().__init__(status)
        self.status = status


class Connection(asyncio.Protocol):
    """One client's connection. `deadline`: when it is cut off (loop time) unless the client sends what is due before;
    `reading_deadline`: unless it reads.

    A request is received (`_request`), waits for the answers to those before it (`_waiting`), and is answered.
    """

    __slots__ = (
        "_answering",
        "_fields",
        "_has_begun",
        "_head_bytes",
        "_headers",
        "_is_cut",
        "_is_full",
        "_is_paused",
        "_parser",
        "_parts",
        "_parts_count",
        "_peer",
        "_request",
        "_server",
        "_size",
        "_transport",
        "_unfinished_bytes",
        "_url",
        "_waiting",
        "deadline",
        "reading_deadline",
    )

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._parser = HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._peer: tuple[str, int] | None = None
        self._answering: asyncio.Task[None] | None = None
        self._waiting: deque[Request] = deque()
        self._request: Request | None = None
        self._has_begun = False
        #: No request is read any more: the last one that was is the last to be answered.
        self._is_cut = False
        #: The client does not read its answers.
        self._is_full = False
        self._is_paused = False
        self._url = b""
        self._headers: dict[bytes, list[str]] = {}
        self._head_bytes = self._fields = self._unfinished_bytes = self._size = self._parts_count = 0
        self._parts: list[bytes] = []
        self.deadline = self.reading_deadline = math.inf

    # --- the transport's calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # which uvloop's does not say it is
        self._peer = transport.get_extra_info("peername")
        self._server.connections.add(self)
        self._allow(self._server.head_timeout_s)
        if self._server.is_full:
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)
        self._is_cut = True
        self._drop_body()
        self._drop_waiting()
        # The parser knows this connection, too: what a client had sent would be kept until the collector of garbage comes.
        del self._parser

    def data_received(self, data: bytes) -> None:
        if self._is_cut:
            return  # the client is still sending, and has yet to read why nobody listens
        had_begun, request = self._has_begun, self._request
        try:
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as wish:
                self._decline(memoryview(data)[wish.args[0] :])
        except HttpParserInvalidMethodError:
            if had_begun or self._answering is not None or self._waiting:
                self._cut_short(400)  # it does not begin where the data begins
            else:
                self._receive_unknown_method(data)
        except HttpParserError as error:
            cut = error.__context__
            self._cut_short(cut.status if isinstance(cut, _Cut) else 400)
        else:
            if had_begun and self._has_begun and self._request is request:
                self._count_unfinished(len(data))

    def eof_received(self) -> bool:
        """Whoever sends no more may still read: stay for the answers that are due."""
        if self._request is not None and not self._is_cut:
            self._receive_fault(Kind.INCOMPLETE_BODY)
        self._is_cut = True
        return self._answering is not None or bool(self._waiting)

    def pause_writing(self) -> None:
        self._is_full = True
        self.reading_deadline = self._server.loop.time() + self._server.head_timeout_s

    def resume_writing(self) -> None:
        self._is_full = False
        self.reading_deadline = math.inf
        if self._answering is None:
            self._go_on()

    # --- the parser's calls -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._request is not None:
            return
        self._has_begun = True
        self._url = b""
        self._headers = {}
        self._head_bytes = self._fields = self._unfinished_bytes = 0

    def on_url(self, url: bytes) -> None:
        if self._request is not None:
            return
        self._url += url
        if len(self._url) > HEAD_BYTES_MAX:
            raise _Cut(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._request is not None:
            return  # after a body in chunks; nobody here asks for such fields (RFC 9110, 6.5.1)
        self._fields += 1
        self._head_bytes += len(name) + len(value)
        if self._fields > FIELDS_MAX or self._head_bytes > HEAD_BYTES_MAX:
            raise _Cut(431)
        name, text = name.lower(), value.decode("latin-1")
        if name in self._headers:
            self._headers[name].append(text)
        else:
            self._headers[name] = [text]

    def on_headers_complete(self) -> None:
        if self._request is not None:
            return
        version = self._parser.get_http_version()
        if version not in {"1.1", "1.0"} or not self._names_its_host(version):
            raise _Cut(400)  # of two hosts a proxy might have looked at the other one (RFC 9112, 3.2)
        if not self._is_plainly_framed():
            # A proxy that does not know the coding might see the end of the body elsewhere (RFC 9112, 6.1).
            raise _Cut(400)
        url = parse_url(self._url)
        path = (url.path or b"/").decode("ascii")
        request = Request(
            method=self._parser.get_method().decode(),
            path=unquote(path) if "%" in path else path,
            query_string=url.query or b"",
            headers=self._headers,
            peer=self._peer,
        )
        request.is_last = not self._parser.should_keep_alive() or version == "1.0"
        self._request = request
        self._parts, self._size, self._parts_count = [], 0, 0
        self._allow(self._server.body_timeout_s)
        length = self._headers.get(b"content-length")
        declared = int(length[0]) if length else 0
        expects = b"expect" in self._headers
        if declared > (self._server.body_bytes_max if expects else DISCARD_BYTES):
            self._receive_fault(Kind.PAYLOAD_TOO_LARGE)
            raise _Cut
        if expects and version == "1.1" and self._answering is None and not self._waiting:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _names_its_host(self, version: str) -> bool:
        hosts = len(self._headers.get(b"host", ()))
        return hosts == 1 or (hosts == 0 and version == "1.0")

    def _is_plainly_framed(self) -> bool:
        """Whether the body has no coding but chunks. The parser looks at the last one alone."""
        codings = self._headers.get(b"transfer-encoding")
        return codings is None or [coding.strip(" \t").lower() for coding in codings] == ["chunked"]

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        self._parts_count += 1
        if self._size > self._server.body_bytes_max:
            self._drop_body()
        else:
            self._parts.append(part)
            self._server.kept_bytes += len(part)
            if self._server.kept_bytes > KEPT_BYTES_MAX and self._size > SMALL_BODY_BYTES:
                self._receive_fault(Kind.UNAVAILABLE)
                raise _Cut
        if self._size > DISCARD_BYTES:
            self._receive_fault(Kind.PAYLOAD_TOO_LARGE)
            raise _Cut
        if self._parts_count > PARTS_MAX:
            self._receive_fault(Kind.PAYLOAD_TOO_LARGE, f"Send the body in fewer than {PARTS_MAX} parts.")
            raise _Cut

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        request, self._request, self._has_begun = self._request, None, False
        assert request is not None
        if self._size > self._server.body_bytes_max:
            request.fault = Problem(kind=Kind.PAYLOAD_TOO_LARGE)
        else:
            request.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts = []  # it is kept still: as the request's
        self._receive(request)

    # --- requests ---------------------------------------------------------------------------------

    def _receive(self, request: Request) -> None:
        self.deadline = math.inf
        request.received_at = self._server.arrival(self._transport)
        if self._answering is None and not self._is_full:
            self._begin(request)
            return
        self._waiting.append(request)
        if not self._is_paused and (
            len(self._waiting) == PIPELINED_MAX
            or sum(len(each.body) for each in self._waiting) > self._server.body_bytes_max
        ):
            self._is_paused = True
            self._transport.pause_reading()

    def _receive_fault(self, kind: Kind, detail: str | None = None) -> None:
        """Let the request that is being received be answered with a problem, and nothing be read after it."""
        request, self._request = self._request, None
        assert request is not None
        self._drop_body()
        request.fault = Problem(kind=kind, detail=detail)
        request.is_last = True
        self._is_cut = True
        self._receive(request)

    def _drop_body(self) -> None:
        """Keep nothing of the body that is being received."""
        self._server.kept_bytes -= sum(map(len, self._parts))
        self._parts = []

    def _drop_waiting(self) -> None:
        self._server.kept_bytes -= sum(len(request.body) for request in self._waiting)
        self._waiting.clear()

    def _decline(self, unread: memoryview) -> None:
        """Go on with HTTP/1.1 though the client would rather speak something else, as Java's does (RFC 9110, 7.8).

        The parser takes what follows such a head for the other protocol. Another one reads it, told how it is framed.
        """
        self._begin_anew()
        while unread and not self._is_cut:
            try:
                self._parser.feed_data(unread)
                return
            except HttpParserUpgrade as wish:
                unread = unread[wish.args[0] :]
                self._begin_anew()

    def _begin_anew(self) -> None:
        """Have another parser read the body of the request whose head was read."""
        assert self._request is not None
        if self._request.method == "CONNECT":
            request, self._request, self._is_cut = self._request, None, True
            request.is_last = True
            self._receive(request)
            return
        framing = "".join(
            f"{name.decode()}: {value}\r\n"
            for name in (b"content-length", b"transfer-encoding")
            for value in self._request.sent(name)
        )
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(f"POST / HTTP/1.1\r\n{framing}\r\n".encode())

    def _receive_unknown_method(self, data: bytes) -> None:
        """The parser knows methods by a list, and a path which of them it has: it can say so for any other, too."""
        line = _REQUEST_LINE.match(data)
        if line is None:
            self._cut_short(400)
            return
        self._is_cut = True
        self._receive(Request(method=line[1].decode(), path=unquote(line[2].decode()), is_last=True))

    def _cut_short(self, status: int) -> None:
        """What came can't be read on."""
        if self._request is not None:
            self._receive_fault(Kind.INCOMPLETE_BODY)
        elif not self._is_cut:
            self._refuse(status)

    def _count_unfinished(self, count: int) -> None:
        """Bytes that brought neither a head nor a body to its end.

        The parser puts a field together anew with each piece of it: a long one would cost the square of its length.
        """
        self._unfinished_bytes += count
        if (
            self._request is None and self._unfinished_bytes > 2 * HEAD_BYTES_MAX
        ):  # an address, and all fields
            self._refuse(431)
        elif self._request is not None and self._unfinished_bytes - self._size > FRAMING_BYTES_MAX:
            self._receive_fault(Kind.PAYLOAD_TOO_LARGE)

    def is_late(self, now: float) -> bool:
        """Whether a deadline has passed."""
        return self.deadline < now or self.reading_deadline < now

    def time_out(self) -> None:
        """A deadline has passed."""
        if self.reading_deadline < math.inf or self._is_cut:
            self._transport.abort()
        elif self._request is not None:
            self._receive_fault(Kind.REQUEST_TIMEOUT)
        elif self._has_begun:
            self._refuse(408)
        else:
            self._transport.abort()  # to close it would wait for a client that has not read the end of its answer

    # --- answers ----------------------------------------------------------------------------------

    def _begin(self, request: Request) -> None:
        self._server.kept_bytes -= len(request.body)
        self._answering = self._server.loop.create_task(self._answer(request), context=Context())

    async def _answer(self, request: Request) -> None:
        transport = self._transport
        try:
            answer = await self._server.application(request)
            is_last = request.is_last or self._server.is_draining or (self._is_cut and not self._waiting)
            packed = self._packed(answer, is_last=is_last, with_body=request.method != "HEAD")
        except BaseException:
            transport.abort()  # rather than keep the client waiting for ever
            raise
        self._answering = None
        if transport.is_closing():
            return
        transport.write(packed)
        if is_last:
            self._end()
        else:
            self._go_on()

    def _packed(self, answer: Answer, *, is_last: bool, with_body: bool) -> bytes:
        status, content = answer.status_code, answer.content
        lines = [f"{name}: {value}\r\n" for name, value in answer.fields()]
        lines.append(f"date: {self._server.date}\r\n")
        if status not in _BODILESS:
            lines.append(f"content-length: {len(content)}\r\n")
        if is_last:
            lines.append("connection: close\r\n")
        head = "".join(lines)
        if head.count("\n") != len(lines):
            raise ValueError("a field of the answer has a line end")
        packed = f"{_STATUS_LINES[status]}{head}\r\n".encode("latin-1")
        return packed + content if with_body and status not in _BODILESS else packed

    def _go_on(self) -> None:
        if self._is_full:
            return
        if self._waiting:
            self._begin(self._waiting.popleft())
            return
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        if self._request is None:
            self._allow(self._server.head_timeout_s)

    def _refuse(self, status: int) -> None:
        """Say no to what is no request, once all requests before it are answered."""
        self._is_cut = True
        if self._answering is None and not self._waiting:
            head = f"{_STATUS_LINES[status]}content-length: 0\r\ndate: {self._server.date}\r\nconnection: close\r\n\r\n"
            self._transport.write(head.encode())
            self._end()

    def _end(self) -> None:
        """Close the connection, after a while where the client may not have read its answer.

        Were it closed while something arrives, the kernel would reset it, and the client might lose the answer
        (RFC 9112, 9.6).
        """
        may_be_sending = self._is_cut or self._has_begun or bool(self._waiting)
        self._drop_waiting()
        self._is_cut = True
        is_read = not self._transport.get_write_buffer_size()
        self._allow(LINGER_S if is_read else self._server.head_timeout_s)
        if may_be_sending:
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def end_if_idle(self) -> None:
        """Close the connection unless a request is under way."""
        if self._answering is None and self._request is None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection whatever is under way."""
        self._transport.abort()

    def _allow(self, seconds: float) -> None:
        self.deadline = self._server.loop.time() + seconds
