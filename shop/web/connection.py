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
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
    parse_url,
)

from shop.web.http import Answer, Request
from shop.web.problems import Kind, Problem

if TYPE_CHECKING:
    from shop.web.server import HttpServer

#: Bytes of an address. The longest of our own have 3,500: a search of 255 characters and a cursor, percent-encoded.
TARGET_BYTES_MAX: Final = 8_192
#: Bytes of a head beside it, and fields in it.
HEAD_BYTES_MAX: Final = 65_536
FIELDS_MAX: Final = 100
#: A client that is still sending does not read: a body that is too large is taken in, and thrown away, up to this size
#: before the answer says so. Beyond it the connection breaks.
DISCARD_BYTES: Final = 16 * 1_048_576
#: Each part of a body costs as much as a small request. Networks cut 1 MiB into some 700 parts.
PARTS_MAX: Final = 10_000
#: Of what comes with a body and is none of it: sizes and extensions of chunks, and fields after it.
FRAMING_BYTES_MAX: Final = 1_048_576
#: What all connections of a process may keep of requests that are not answered. Beyond it, each connection may have small
#: ones alone, one behind the other: orders continue while another client sends the beginnings of very many large ones.
KEPT_BYTES_MAX: Final = 128 * 1_048_576
SMALL_REQUEST_BYTES: Final = 16_384
#: What a part of a body takes beside its bytes.
PART_BYTES: Final = 64
#: Methods whose body may be read. That of any other is received and not kept.
METHODS_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
#: Requests of one connection that wait for those before them, if their bodies are no larger than one may be; then no more
#: are read.
PIPELINED_MAX: Final = 64
#: For how long a connection whose client may still be sending stays after the last answer, so that this is read.
LINGER_S: Final = 2.0
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_BODILESS: Final = {204, 304}
_SLASH: Final = b"/"[0]
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}) /[!-~]{0,2000} HTTP/1\.[01]\r\n")
#: A host and its port (RFC 3986, 3.2.2 and 3.2.3), in a field and in an address.
_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5})?"
)
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)


class _Cut(Exception):
    """Nothing more is to be read from this connection: the answer of the last request is on its way."""


def _malformed(detail: str | None = None) -> Problem:
    return Problem(kind=Kind.MALFORMED_REQUEST, detail=detail)


def _problem_of(error: HttpParserError) -> Problem:
    """Why the parser stopped: a callback's `Problem`, or a fault that the parser itself has found."""
    cause = error.__context__
    if isinstance(cause, Problem):
        return cause
    if isinstance(error, HttpParserInvalidURLError) or isinstance(cause, HttpParserInvalidURLError):
        return _malformed("The address has characters that it cannot have. Percent-encode it (RFC 3986).")
    return _malformed()


class Connection(asyncio.Protocol):
    """One client's connection. `deadline`: when it is cut off (loop time) unless the client sends what is due before;
    `reading_deadline`: unless it reads.

    A request is received (`_request`), waits for the answers to those before it (`_waiting`), and is answered.
    """

    __slots__ = (
        "_answering",
        "_asked",
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
        "_unknown_method",
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
        #: The request that is being answered.
        self._asked: Request | None = None
        self._waiting: deque[Request] = deque()
        self._request: Request | None = None
        self._has_begun = False
        #: No request is read any more: the last one that was is the last to be answered.
        self._is_cut = False
        #: The client does not read its answers.
        self._is_full = False
        self._is_paused = False
        #: A method that the parser does not know, of the request that is being received.
        self._unknown_method = ""
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
            self._refuse(Problem(kind=Kind.UNAVAILABLE))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)
        self._is_cut = True
        self._drop_body()
        self._drop_waiting()
        if self._asked is not None:
            self._asked.leave()
        # The parser knows this connection, too: what a client had sent would be kept until the collector of garbage comes.
        del self._parser

    def data_received(self, data: bytes) -> None:
        if self._is_cut:
            return  # the client is still sending, and has yet to read why nobody listens
        had_begun, headers, request = self._has_begun, self._headers, self._request
        try:
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as wish:
                self._decline(memoryview(data)[wish.args[0] :])
        except HttpParserInvalidMethodError:
            if had_begun or self._answering is not None or self._waiting:
                self._cut_short(_malformed())  # it does not begin where the data begins
            else:
                self._receive_unknown_method(data)
        except HttpParserError as error:
            self._cut_short(_problem_of(error))
        else:
            is_same = self._headers is headers and self._request is request
            if had_begun and self._has_begun and is_same:
                self._count_unfinished(len(data))

    def eof_received(self) -> bool:
        """A client that sends no more may still read: stay for the answers that are due.

        It may also have closed the connection; only what is written would tell. So nothing is held back for it.
        """
        if self._request is not None and not self._is_cut:
            self._receive_fault(Kind.INCOMPLETE_BODY)
        self._is_cut = True
        for request in (self._asked, *self._waiting):
            if request is not None:
                request.leave()
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
        if len(self._url) > TARGET_BYTES_MAX:
            raise Problem(kind=Kind.ADDRESS_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._request is not None:
            return  # after a body in chunks; nobody here asks for such fields (RFC 9110, 6.5.1)
        self._fields += 1
        self._head_bytes += len(name) + len(value)
        if self._fields > FIELDS_MAX or self._head_bytes > HEAD_BYTES_MAX:
            raise Problem(kind=Kind.HEAD_TOO_LARGE)
        name, text = name.lower(), value.decode("latin-1")
        if name in self._headers:
            self._headers[name].append(text)
        else:
            self._headers[name] = [text]

    def on_headers_complete(self) -> None:
        if self._request is not None:
            return
        version = self._parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise _malformed("The version must be HTTP/1.1 or HTTP/1.0.")
        method = self._unknown_method or self._parser.get_method().decode()
        hosts = self._headers.get(b"host")
        if self._url[0] != _SLASH or hosts != self._server.known_hosts or method == "CONNECT":
            self._find_host(version, method)
        if b"transfer-encoding" in self._headers and not self._is_plainly_framed():
            # A proxy that does not know the coding might see the end of the body elsewhere (RFC 9112, 6.1).
            raise _malformed("The body may have no coding but chunks.")
        url = parse_url(self._url)
        path = (url.path or b"/").decode("ascii")
        self._request = request = Request(
            method=method,
            path=unquote(path) if "%" in path else path,
            query_string=url.query or b"",
            headers=self._headers,
            peer=self._peer,
        )
        self._unknown_method = ""
        request.is_last = not self._parser.should_keep_alive() or version == "1.0"
        self._parts, self._size, self._parts_count = [], 0, 0
        self._allow(self._server.body_timeout_s)
        self._keep(request, self._head_bytes + len(self._url))
        length = self._headers.get(b"content-length")
        declared = int(length[0]) if length else 0
        waits = b"expect" in self._headers and self._waits_to_send()
        if declared > (self._server.body_bytes_max if waits else DISCARD_BYTES):
            self._receive_fault(Kind.PAYLOAD_TOO_LARGE)
            raise _Cut
        has_body = declared or b"transfer-encoding" in self._headers
        if waits and has_body and version == "1.1" and self._answering is None and not self._waiting:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _find_host(self, version: str, method: str) -> None:
        """See that the request names one host (RFC 9112, 3.2): of two a proxy might have looked at the other one.

        The host of an address in absolute form counts, whatever the field says (RFC 9112, 3.2.2).
        """
        hosts = self._headers.get(b"host", [])
        if len(hosts) > 1 or (version == "1.1" and not hosts):
            raise _malformed("Send one Host field.")
        if method == "CONNECT":
            raise _malformed("CONNECT is for proxies.")
        if not self._url.startswith((b"/", b"*")):
            absolute = _ABSOLUTE.match(self._url.decode("latin-1"))
            if absolute is None:
                raise _malformed("The address must be a path, or begin with http:// or https://.")
            self._headers[b"host"] = [absolute[1]]
            hosts = [*hosts, absolute[1]]
        for host in hosts:
            if _HOST.fullmatch(host.rstrip(" \t")) is None:
                raise _malformed(
                    "The Host, or that of the address, is no name or IP address with or without a port."
                )
        if len(hosts) == 1:
            self._server.known_hosts = hosts

    def _waits_to_send(self) -> bool:
        """Whether the client waits for a word before it sends its body (RFC 9110, 10.1.1). All else is ignored."""
        return {value.strip().lower() for value in self._headers[b"expect"]} == {"100-continue"}

    def _is_plainly_framed(self) -> bool:
        """Whether the body has no coding but chunks. The parser looks at the last one alone."""
        codings = self._headers.get(b"transfer-encoding")
        return codings is None or [coding.strip(" \t").lower() for coding in codings] == ["chunked"]

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        self._parts_count += 1
        if self._size > self._server.body_bytes_max:
            self._drop_body()
        elif (request := self._request) is not None and request.method in METHODS_WITH_BODY:
            self._parts.append(part)
            self._keep(request, len(part) + PART_BYTES)
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
            self._parts = []
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
            or sum(each.kept_bytes for each in self._waiting) > self._server.body_bytes_max
        ):
            self._is_paused = True
            self._transport.pause_reading()

    def _receive_fault(self, kind: Kind, detail: str | None = None) -> None:
        """Let the request that is being received be answered with a problem, and nothing be read after it."""
        self._drop_body()
        request, self._request = self._request, None
        assert request is not None
        request.fault = Problem(kind=kind, detail=detail)
        request.is_last = True
        self._is_cut = True
        self._receive(request)

    def _keep(self, request: Request, count: int) -> None:
        """Count bytes of the request that is being received until it is answered, or dropped."""
        request.kept_bytes += count
        self._server.kept_bytes += count
        if self._server.kept_bytes > KEPT_BYTES_MAX and (
            request.kept_bytes > SMALL_REQUEST_BYTES or self._waiting
        ):
            self._receive_fault(Kind.UNAVAILABLE)
            raise _Cut

    def _release(self, request: Request) -> None:
        self._server.kept_bytes -= request.kept_bytes
        request.kept_bytes = 0

    def _drop_body(self) -> None:
        """Keep nothing of the body that is being received."""
        self._parts = []
        if self._request is not None:
            self._release(self._request)

    def _drop_waiting(self) -> None:
        for request in self._waiting:
            self._release(request)
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
        framing = "".join(
            f"{name.decode()}: {value}\r\n"
            for name in (b"content-length", b"transfer-encoding")
            for value in self._request.sent(name)
        )
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(f"POST / HTTP/1.1\r\n{framing}\r\n".encode())

    def _receive_unknown_method(self, data: bytes) -> None:
        """The parser knows methods by a list. What has another one is read as if it had one of these."""
        line = _REQUEST_LINE.match(data)
        if line is None:
            self._cut_short(_malformed())
            return
        self._parser = HttpRequestParser(self)
        self._unknown_method = line[1].decode()
        self.data_received(b"DELETE" + data[line.end(1) :])

    def _cut_short(self, problem: Problem) -> None:
        """What came can't be read on."""
        if self._request is not None:
            self._receive_fault(Kind.INCOMPLETE_BODY)
        elif not self._is_cut:
            self._refuse(problem)

    def _count_unfinished(self, count: int) -> None:
        """Bytes that brought neither a head nor a body to its end.

        The parser puts a field together anew with each piece of it: a long one would cost the square of its length.
        """
        self._unfinished_bytes += count
        if self._request is None and self._unfinished_bytes > 2 * HEAD_BYTES_MAX:
            self._refuse(Problem(kind=Kind.HEAD_TOO_LARGE))
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
            self._refuse(Problem(kind=Kind.REQUEST_TIMEOUT))
        else:
            self._transport.abort()  # to close it would wait for a client that has not read the end of its answer

    # --- answers ----------------------------------------------------------------------------------

    def _begin(self, request: Request) -> None:
        self._asked = request
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
        finally:
            self._release(request)
            self._answering = self._asked = None
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

    def _refuse(self, problem: Problem) -> None:
        """Answer what is no request, once all requests before it are answered. Nothing is read after it.

        What was read of its head counts: its method may allow no body in the answer, and it may have a name
        (`X-Request-ID`).
        """
        self._is_cut = True
        request = Request(method="", path="", peer=self._peer, fault=problem, is_last=True)
        if self._has_begun and self._url:
            request.method, request.headers = self._parser.get_method().decode(), self._headers
        self._receive(request)

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
