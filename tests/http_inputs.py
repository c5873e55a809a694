"""HTTP/1.1 input by kind: how many requests each row must be taken for, and what is answered.

The rows are our own, after the kinds that public suites try: request lines, targets, hosts, fields, lengths, codings,
chunks, pipelining, upgrades, expectations. A row that is read as more requests than it has could smuggle one past a
proxy; one that is read as fewer swallows one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from shop.web.http import Request

#: Requests that were seen, and statuses of answers.
Outcome = tuple[list[str], list[int]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Bytes, the requests that must be seen in them ("GET /a" or "POST /a body"), and the statuses that are answered.

    `may_be_refused`: whether it may also be refused where it comes in pieces.
    """

    name: str
    sent: bytes
    seen: Sequence[str]
    statuses: Sequence[int]
    may_be_refused: bool = False

    @property
    def outcome(self) -> Outcome:
        """What must come of it."""
        return list(self.seen), list(self.statuses)


def seen(request: Request) -> str:
    """A request as a row names it."""
    query, body = request.query_string.decode("latin-1"), request.body.decode("latin-1")
    host = request.header(b"host").strip()
    words = f"{request.method} {request.path}{'?' if query else ''}{query}"
    return words + (f" {body}" if body else "") + (f" of {host}" if host not in {"", "a"} else "")


H: Final = b"Host: a\r\n"
NEXT: Final = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


def row(name: str, sent: bytes, seen: Sequence[str], *answered: int) -> Row:
    """A row of the table."""
    return Row(name=name, sent=sent, seen=seen, statuses=answered)


def good(name: str, sent: bytes, *seen: str) -> Row:
    """Requests that are all taken."""
    return row(name, sent, seen, *[200] * len(seen))


def unknown(name: str, sent: bytes, *seen: str) -> Row:
    """Requests of which the parser does not know the method."""
    return replace(good(name, sent, *seen), may_be_refused=True)


def bad(name: str, sent: bytes, status: int = 400) -> Row:
    """What is refused. The request that follows is not looked at: who knows where it begins?"""
    return row(name, sent + NEXT, (), status)


def line(start: bytes) -> bytes:
    """A head whose request line is this."""
    return start + b"\r\n" + H + b"\r\n"


def fields(*lines: bytes) -> bytes:
    """A head with these fields beside its Host."""
    return b"GET / HTTP/1.1\r\n" + H + b"".join(each + b"\r\n" for each in lines) + b"\r\n"


def hosted(*hosts: bytes, version: bytes = b"1.1", target: bytes = b"/") -> bytes:
    """A head with these Host fields."""
    return (
        b"GET %s HTTP/%s\r\n" % (target, version)
        + b"".join(b"Host:%s\r\n" % host for host in hosts)
        + b"\r\n"
    )


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """A POST that is framed by these fields."""
    return b"POST / HTTP/1.1\r\n" + H + b"".join(each + b"\r\n" for each in lines) + b"\r\n" + body


def chunks(body: bytes, *more: bytes) -> bytes:
    """A POST in chunks, the chunks written out."""
    return post(b"Transfer-Encoding: chunked", *more, body=body)


REQUEST_LINES = [
    good("a plain request", line(b"GET / HTTP/1.1"), "GET /"),
    good("a line end before the request", b"\r\n" + line(b"GET / HTTP/1.1"), "GET /"),
    good("several line ends before the request", b"\r\n\r\n\r\n" + line(b"GET / HTTP/1.1"), "GET /"),
    good("HTTP/1.0", line(b"GET / HTTP/1.0"), "GET /"),
    bad("HTTP/0.9", b"GET /\r\n"),
    bad("HTTP/0.9 and a Host", b"GET /\r\nHost: a\r\n\r\n"),
    bad("HTTP/0.9 named", line(b"GET / HTTP/0.9")),
    bad("HTTP/1.2", line(b"GET / HTTP/1.2")),
    bad("HTTP/2.0", line(b"GET / HTTP/2.0")),
    bad("HTTP/3", line(b"GET / HTTP/3")),
    bad("HTTP/1.10", line(b"GET / HTTP/1.10")),
    bad("HTTP/01.1", line(b"GET / HTTP/01.1")),
    bad("HTTP/1", line(b"GET / HTTP/1")),
    bad("HTTP/-1.1", line(b"GET / HTTP/-1.1")),
    bad("HTTP/1,1", line(b"GET / HTTP/1,1")),
    bad("HTTP/1.1 and more", line(b"GET / HTTP/1.1x")),
    bad("http/1.1 in lower case", line(b"GET / http/1.1")),
    bad("HTTPS/1.1", line(b"GET / HTTPS/1.1")),
    bad("no version", line(b"GET / ")),
    bad("no target", line(b"GET HTTP/1.1")),
    bad("a method alone", line(b"GET")),
    bad("a tab between method and target", line(b"GET\t/ HTTP/1.1")),
    bad("a tab before the version", line(b"GET /\tHTTP/1.1")),
    bad("a blank before the method", line(b" GET / HTTP/1.1")),
    bad("a blank in the target", line(b"GET /a b HTTP/1.1")),
    bad("a null byte before the method", line(b"\0GET / HTTP/1.1")),
    bad("a byte order mark", line(b"\xef\xbb\xbfGET / HTTP/1.1")),
    bad("a null byte in the version", line(b"GET / HTTP/1.1\0")),
    bad("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    bad("a greeting of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    bad("a command of Redis", b"*1\r\n$4\r\nPING\r\n"),
    bad("a header of a proxy protocol", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + line(b"GET / HTTP/1.1")),
    bad("a status line", b"HTTP/1.1 200 OK\r\n" + H + b"\r\n"),
    bad("a request line in the middle of a head", b"GET / HTTP/1.1\r\nGET /b HTTP/1.1\r\n" + H + b"\r\n"),
    row("a head without its end", b"GET / HTTP/1.1\r\n" + H, ()),
    row("nothing at all", b"", ()),
    row("line ends alone", b"\r\n\r\n", ()),
]
METHODS = [
    good("HEAD", line(b"HEAD / HTTP/1.1"), "HEAD /"),
    good("OPTIONS of all", line(b"OPTIONS * HTTP/1.1"), "OPTIONS *"),
    good("DELETE", line(b"DELETE /a HTTP/1.1"), "DELETE /a"),
    good("TRACE", line(b"TRACE /a HTTP/1.1"), "TRACE /a"),
    unknown("a method that nobody knows", line(b"BREW /pot HTTP/1.1"), "BREW /pot"),
    unknown("one that begins as another", line(b"GETS /a HTTP/1.1"), "GETS /a"),
    unknown("one in lower case", line(b"get /a HTTP/1.1"), "get /a"),
    unknown("one with all signs", line(b"!#$%&'*+-.^_`|~0aZ /a HTTP/1.1"), "!#$%&'*+-.^_`|~0aZ /a"),
    unknown(
        "an unknown one, and another request", line(b"BREW /pot HTTP/1.1") + NEXT, "BREW /pot", "GET /next"
    ),
    unknown(
        "an unknown one with a body",
        b"BREW /pot HTTP/1.1\r\n" + H + b"Content-Length: 3\r\n\r\nGET" + NEXT,
        "BREW /pot",
        "GET /next",
    ),
    bad("an unknown one without a Host", b"BREW /pot HTTP/1.1\r\n\r\n"),
    bad(
        "an unknown one of two lengths",
        b"BREW / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ),
    bad("one with brackets", line(b"G[E]T / HTTP/1.1")),
    bad("one with a colon", line(b"GET: / HTTP/1.1")),
    bad("one beyond ASCII", line("GÉT / HTTP/1.1".encode())),
    bad("one without end", line(b"A" * 5000 + b" / HTTP/1.1")),
    bad("CONNECT", line(b"CONNECT a:443 HTTP/1.1")),
    bad("CONNECT and a path", line(b"CONNECT /a HTTP/1.1")),
]
TARGETS = [
    good("a path and a query", line(b"GET /a/b?c=d HTTP/1.1"), "GET /a/b?c=d"),
    good("a fragment, which is left out", line(b"GET /a#b HTTP/1.1"), "GET /a"),
    good("two slashes", line(b"GET //a HTTP/1.1"), "GET //a"),
    good("what is percent-encoded", line(b"GET /%41%2F HTTP/1.1"), "GET /A/"),
    good("what is percent-encoded wrongly", line(b"GET /%zz HTTP/1.1"), "GET /%zz"),
    good("the absolute form", line(b"GET http://b/c?d HTTP/1.1"), "GET /c?d of b"),
    good("the absolute form with a port", line(b"GET http://b:81/c HTTP/1.1"), "GET /c of b:81"),
    good("the absolute form with TLS", line(b"GET https://b/c HTTP/1.1"), "GET /c of b"),
    good("the absolute form in capitals", line(b"GET HTTP://B/c HTTP/1.1"), "GET /c of B"),
    good(
        "the absolute form of an IPv6 address", line(b"GET http://[::1]:80/c HTTP/1.1"), "GET /c of [::1]:80"
    ),
    good("the absolute form without a path", line(b"GET http://b HTTP/1.1"), "GET / of b"),
    good("the absolute form of a query alone", line(b"GET http://b?c HTTP/1.1"), "GET /?c of b"),
    good("the absolute form without a Host, of old", b"GET http://b/ HTTP/1.0\r\n\r\n", "GET / of b"),
    bad("the absolute form without a Host", b"GET http://b/ HTTP/1.1\r\n\r\n"),
    bad("the absolute form with a Host that is none", b"GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n"),
    bad("the absolute form with a user", line(b"GET http://user@b/ HTTP/1.1")),
    bad("the absolute form with a password", line(b"GET http://user:word@b/ HTTP/1.1")),
    bad("the absolute form without a host", line(b"GET http:///c HTTP/1.1")),
    bad("the absolute form of a port alone", line(b"GET http://:80/c HTTP/1.1")),
    bad("the absolute form of an open bracket", line(b"GET http://[::1/c HTTP/1.1")),
    bad("another scheme", line(b"GET ftp://b/c HTTP/1.1")),
    bad("a scheme without slashes", line(b"GET http:b HTTP/1.1")),
    bad("a name alone", line(b"GET b HTTP/1.1")),
    bad("the authority form", line(b"GET b:80 HTTP/1.1")),
    bad("a query alone", line(b"GET ?a HTTP/1.1")),
    bad("a backslash first", line(b"GET \\a HTTP/1.1")),
    bad("bytes beyond ASCII in the path", line("GET /ü HTTP/1.1".encode())),
    bad("bytes beyond ASCII in the query", line("GET /?q=ü HTTP/1.1".encode())),
    bad("a byte that is no UTF-8", line(b"GET /\xff HTTP/1.1")),
    bad("a null byte", line(b"GET /\0 HTTP/1.1")),
    bad("a delete character", line(b"GET /\x7f HTTP/1.1")),
    bad("a carriage return", line(b"GET /\ra HTTP/1.1")),
    good("8,192 bytes", line(b"GET /" + b"x" * 8_191 + b" HTTP/1.1"), "GET /" + "x" * 8_191),
    bad("8,193 bytes", line(b"GET /" + b"x" * 8_192 + b" HTTP/1.1"), 414),
]
HOSTS = [
    *(
        good(
            f"the Host {host.decode()}",
            hosted(host),
            "GET /" if host.strip() == b"a" else f"GET / of {host.decode().strip()}",
        )
        for host in [
            b"a",
            b" a ",
            b"a.example.com",
            b"a:8000",
            b"a:",
            b"127.0.0.1",
            b"[::1]",
            b"[::1]:8000",
            b"a_b",
            b"a%2Fb",
            b"A",
            b"xn--bcher-kva.example",
            b"a,b",
        ]
    ),
    *(
        bad(f"the Host {host!r}", hosted(host))
        for host in [
            b"",
            b" ",
            b"a b",
            b"a/b",
            b"a@b",
            b"a#",
            b"a?",
            b"[::1",
            b"::1",
            b"[]",
            b"[::1]x",
            b"a:b",
            b"a:1:2",
            b":80",
            b"a:123456",
            b"a\\b",
            b'a"',
            b"<a>",
            b"http://a",
            b"a%",
            b"a%zz",
            "ü".encode(),
            b"a\t",
            b"a\x7f",
            b"[v1.a]",
        ]
        if host != b"a\t"
    ),
    bad("no Host", hosted()),
    bad("two Hosts", hosted(b"a", b"b")),
    bad("the same Host twice", hosted(b"a", b"a")),
    good("no Host, of old", hosted(version=b"1.0"), "GET /"),
    bad("two Hosts, of old", hosted(b"a", b"a", version=b"1.0")),
    bad("a Host that is none, of old", hosted(b"a b", version=b"1.0")),
    bad("a Host that is folded", b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n"),
    bad("a blank before the colon of Host", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
]
FIELDS = [
    good("an empty value", fields(b"X:"), "GET /"),
    good("no blank after the colon", fields(b"X:y"), "GET /"),
    good("tabs around the value", fields(b"X:\ty\t"), "GET /"),
    good("bytes beyond ASCII in a value", fields(b"X: \xff\xfe"), "GET /"),
    good("colons in a value", fields(b"X: a:b:c"), "GET /"),
    good("a name of all signs", fields(b"!#$%&'*+-.^_`|~0aZ: y"), "GET /"),
    good("a hundred fields", fields(*[b"X: y"] * 99), "GET /"),
    bad("a hundred and one fields", fields(*[b"X: y"] * 100), 431),
    bad("a value of 64 KiB", fields(b"X: " + b"y" * 65_536), 431),
    bad("names of 64 KiB", fields(*[b"x" * 7_000 + b": y"] * 10), 431),
    bad("a blank before the colon", fields(b"X : y")),
    bad("a tab before the colon", fields(b"X\t: y")),
    bad("no colon", fields(b"nonsense")),
    bad("no name", fields(b": y")),
    bad("a blank in a name", fields(b"X Y: z")),
    bad("a bracket in a name", fields(b"X[: y")),
    bad("a null byte in a name", fields(b"X\0: y")),
    bad("bytes beyond ASCII in a name", fields("Ü: y".encode())),
    bad("a null byte in a value", fields(b"X: a\0b")),
    bad("a delete character in a value", fields(b"X: a\x7fb")),
    bad("a control character in a value", fields(b"X: a\x01b")),
    bad("a bare carriage return in a value", fields(b"X: a\rb")),
    bad("a bare carriage return that hides a field", fields(b"X: a\rContent-Length: 40")),
    bad("a line that goes on in the next", fields(b"X: a\r\n b")),
    bad("a line that goes on after a tab", fields(b"X: a\r\n\tb")),
    bad("a blank before the first field", b"GET / HTTP/1.1\r\n " + H + b"\r\n"),
    bad("a blank before the end of the head", b"GET / HTTP/1.1\r\n" + H + b" \r\n\r\n"),
    bad("lines that end without a carriage return", b"GET / HTTP/1.1\nHost: a\n\n"),
    bad("a field that ends without a carriage return", b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
    bad("a head that ends without a carriage return", b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    bad("lines that end with a carriage return alone", b"GET / HTTP/1.1\rHost: a\r\r"),
    bad("two carriage returns", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
]
LENGTHS = [
    good("a length", post(b"Content-Length: 3", body=b"abc") + NEXT, "POST / abc", "GET /next"),
    good("a length of nothing", post(b"Content-Length: 0") + NEXT, "POST /", "GET /next"),
    good(
        "zeros before a length", post(b"Content-Length: 003", body=b"abc") + NEXT, "POST / abc", "GET /next"
    ),
    good(
        "blanks around a length", post(b"Content-Length:  3 ", body=b"abc") + NEXT, "POST / abc", "GET /next"
    ),
    good("no length, no body", post() + NEXT, "POST /", "GET /next"),
    good(
        "a request in a body", post(b"Content-Length: %d" % len(NEXT), body=NEXT), "POST / " + NEXT.decode()
    ),
    good(
        "a body of GET, which is thrown away",
        fields(b"Content-Length: 3") + b"abc" + NEXT,
        "GET /",
        "GET /next",
    ),
    good(
        "a body of HEAD, which is thrown away",
        b"HEAD / HTTP/1.1\r\n" + H + b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT + NEXT,
        "HEAD /",
        "GET /next",
    ),
    *(
        bad(f"the length {length!r}", post(b"Content-Length: " + length, body=b"abc"))
        for length in [
            b"",
            b"+3",
            b"-3",
            b"3.0",
            b"0x3",
            b"3,3",
            b"3, 3",
            b"3 3",
            b"3;",
            b"three",
            b"\xb3",
            b"3\0",
            b"3_0",
            b"'3'",
            b"1e1",
            b"18446744073709551616",
            b"18446744073709551619",
            b"99999999999999999999999",
            b"-0",
            b"\x0b3",
        ]
    ),
    bad("two lengths", post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd")),
    bad("the same length twice", post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc")),
    bad("a length that is folded", post(b"Content-Length:\r\n 3", body=b"abc")),
    bad("a blank before the colon of a length", post(b"Content-Length : 3", body=b"abc")),
    bad("a length that 64 bits hold", post(b"Content-Length: 18446744073709551615", body=b"abc"), 413),
    bad("a length beyond what is thrown away", post(b"Content-Length: 16777217", body=b"abc"), 413),
    row("a body that is too short", post(b"Content-Length: 9", body=b"abc"), (), 400),
]
CODINGS = [
    good("chunks", chunks(b"3\r\nabc\r\n0\r\n\r\n") + NEXT, "POST / abc", "GET /next"),
    good(
        "chunks in capitals",
        post(b"TRANSFER-ENCODING: CHUNKED", body=b"0\r\n\r\n") + NEXT,
        "POST /",
        "GET /next",
    ),
    *(
        bad(f"the coding {coding!r}", post(b"Transfer-Encoding: " + coding, body=b"3\r\nabc\r\n0\r\n\r\n"))
        for coding in [
            b"",
            b"gzip",
            b"identity",
            b"gzip, chunked",
            b"identity, chunked",
            b"chunked, chunked",
            b"chunked, gzip",
            b"chunked, identity",
            b"xchunked",
            b"chunkedx",
            b"chunked;q=1",
            b'"chunked"',
            b"'chunked'",
            b"chunked\0",
            b"chunked,",
            b",chunked",
            b"chunked gzip",
            b"\x0bchunked",
            b"chunked\xa0",
            b"x\r\n chunked",
        ]
    ),
    bad("chunks told twice", post(*[b"Transfer-Encoding: chunked"] * 2, body=b"0\r\n\r\n")),
    bad(
        "a coding in a line of its own before chunks",
        post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    bad(
        "a coding in a line of its own after chunks",
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", body=b"0\r\n\r\n"),
    ),
    bad("a blank before the colon of a coding", post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n")),
    bad(
        "a length before chunks", post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")
    ),
    bad(
        "a length after chunks", post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n")
    ),
    bad(
        "a length of nothing and chunks",
        post(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    bad(
        "a length and another coding", post(b"Content-Length: 3", b"Transfer-Encoding: identity", body=b"abc")
    ),
    bad(
        "a length and chunks of GET",
        fields(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ),
    bad(
        "a length and chunks, of old",
        b"POST / HTTP/1.0\r\n" + H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
]
CHUNKS = [
    good(
        "chunks of several sizes", chunks(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n") + NEXT, "POST / abc", "GET /next"
    ),
    good(
        "sizes in either case",
        chunks(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
        "POST / 01234567890123456789",
    ),
    good("zeros before a size", chunks(b"0003\r\nabc\r\n000\r\n\r\n") + NEXT, "POST / abc", "GET /next"),
    good("an extension", chunks(b"3;x=y\r\nabc\r\n0;z\r\n\r\n") + NEXT, "POST / abc", "GET /next"),
    good(
        "an extension in quotes", chunks(b'3;x="y;z"\r\nabc\r\n0\r\n\r\n') + NEXT, "POST / abc", "GET /next"
    ),
    good(
        "a field after the chunks", chunks(b"3\r\nabc\r\n0\r\nX: y\r\n\r\n") + NEXT, "POST / abc", "GET /next"
    ),
    bad("a length after the chunks", chunks(b"3\r\nabc\r\n0\r\nContent-Length: 99\r\n\r\n")),
    good("a Host after the chunks", chunks(b"0\r\nHost: b\r\n\r\n") + NEXT, "POST /", "GET /next"),
    good(
        "a request in a chunk",
        chunks(b"%x\r\n%s\r\n0\r\n\r\n" % (len(NEXT), NEXT)),
        "POST / " + NEXT.decode(),
    ),
    good(
        "chunks of GET, which are thrown away",
        fields(b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n" + NEXT,
        "GET /",
        "GET /next",
    ),
    *(
        bad(f"the chunk {chunk!r}", chunks(chunk + b"0\r\n\r\n"))
        for chunk in [
            b"zz\r\nabc\r\n",
            b"-3\r\nabc\r\n",
            b"+3\r\nabc\r\n",
            b"0x3\r\nabc\r\n",
            b"3 \r\nabc\r\n",
            b" 3\r\nabc\r\n",
            b"\r\n3\r\nabc\r\n",
            b"3\nabc\r\n",
            b"3\r\nabc\n",
            b"3\r\nabc",
            b"3\r\nabcd\r\n",
            b"3\r\nab\r\n",
            b"3\rabc\r\n",
            b"3;x\nabc\r\n",
            b"3;x\0\r\nabc\r\n",
            b'3;x="\ny"\r\nabc\r\n',
            b"3\t;x\r\nabc\r\n",
            b"fffffffffffffffff\r\nabc\r\n",
            b"10000000000000003\r\nabc\r\n",
            b"3g\r\nabc\r\n",
            b"3,3\r\nabc\r\n",
            b";x\r\nabc\r\n",
            b"\xb3\r\nabc\r\n",
            b"3_\r\nabc\r\n",
            b"3.\r\nabc\r\n",
        ]
    ),
    bad("a last chunk that ends without a carriage return", chunks(b"3\r\nabc\r\n0\n\r\n")),
    bad("the end of a body without a carriage return", chunks(b"3\r\nabc\r\n0\r\n\n")),
    bad("a field after the chunks that is none", chunks(b"3\r\nabc\r\n0\r\nnonsense\r\n\r\n")),
    bad("a folded field after the chunks", chunks(b"3\r\nabc\r\n0\r\nX: a\r\n b\r\n\r\n")),
    bad("a null byte after the chunks", chunks(b"3\r\nabc\r\n0\r\nX: \0\r\n\r\n")),
    row("chunks that do not end", chunks(b"3\r\nabc\r\n"), (), 400),
    row("no end after the last chunk", chunks(b"3\r\nabc\r\n0\r\n"), (), 400),
]
SEVERAL = [
    good("two requests at once", NEXT + NEXT, "GET /next", "GET /next"),
    good("a line end between two", NEXT + b"\r\n" + NEXT, "GET /next", "GET /next"),
    good(
        "bodies between",
        (post(b"Content-Length: 3", body=b"abc") + NEXT) * 2,
        *["POST / abc", "GET /next"] * 2,
    ),
    good("the last one said so", fields(b"Connection: close") + NEXT, "GET /"),
    good("the last one said so among others", fields(b"Connection: x, Close") + NEXT, "GET /"),
    good("one of old is the last", b"GET / HTTP/1.0\r\n\r\n" + NEXT, "GET /"),
    good(
        "one of old is the last, whatever it asks",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + NEXT,
        "GET /",
    ),
    row("nonsense after a request", NEXT + b"nonsense\r\n\r\n" + NEXT, ("GET /next",), 200, 400),
    row(
        "an unknown method after a request",
        NEXT + b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n" + NEXT,
        ("GET /next",),
        200,
        400,
    ),
    row("no Host after a request", NEXT + b"GET / HTTP/1.1\r\n\r\n" + NEXT, ("GET /next",), 200, 400),
    row(
        "more than the length says",
        post(b"Content-Length: 3", body=b"abcd") + b"\r\n" + NEXT,
        ("POST / abc",),
        200,
        400,
    ),
]
UPGRADES = [
    good(
        "a wish for HTTP/2",
        fields(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA") + NEXT,
        "GET /",
        "GET /next",
    ),
    good(
        "a wish for a web socket",
        fields(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13") + NEXT,
        "GET /",
        "GET /next",
    ),
    good(
        "a wish beside a length",
        post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 3", body=b"abc") + NEXT,
        "POST / abc",
        "GET /next",
    ),
    good(
        "a wish beside chunks",
        post(
            b"Connection: Upgrade",
            b"Upgrade: h2c",
            b"Transfer-Encoding: chunked",
            body=b"3\r\nabc\r\n0\r\n\r\n",
        )
        + NEXT,
        "POST / abc",
        "GET /next",
    ),
    good("a wish without Connection", fields(b"Upgrade: h2c") + NEXT, "GET /", "GET /next"),
    good("a wish for nothing", fields(b"Connection: Upgrade") + NEXT, "GET /", "GET /next"),
    good(
        "two wishes",
        fields(b"Connection: Upgrade", b"Upgrade: h2c") * 2 + NEXT,
        "GET /",
        "GET /",
        "GET /next",
    ),
    bad("a wish without a Host", b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
    bad(
        "a wish beside a length and chunks",
        post(
            b"Connection: Upgrade",
            b"Upgrade: h2c",
            b"Content-Length: 3",
            b"Transfer-Encoding: chunked",
            body=b"0\r\n\r\n",
        ),
    ),
    bad(
        "a wish beside two lengths",
        post(
            b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 3", b"Content-Length: 4", body=b"abc"
        ),
    ),
]
EXPECTATIONS = [
    row(
        "an expectation that is met",
        post(b"Expect: 100-continue", b"Content-Length: 3", body=b"abc") + NEXT,
        ("POST / abc", "GET /next"),
        100,
        200,
        200,
    ),
    row(
        "one in capitals",
        post(b"Expect: 100-Continue", b"Content-Length: 3", body=b"abc"),
        ("POST / abc",),
        100,
        200,
    ),
    row(
        "one beside chunks",
        chunks(b"3\r\nabc\r\n0\r\n\r\n", b"Expect: 100-continue"),
        ("POST / abc",),
        100,
        200,
    ),
    good("one without a body", post(b"Expect: 100-continue") + NEXT, "POST /", "GET /next"),
    good(
        "one of a body of nothing",
        post(b"Expect: 100-continue", b"Content-Length: 0") + NEXT,
        "POST /",
        "GET /next",
    ),
    good("one of GET", fields(b"Expect: 100-continue") + NEXT, "GET /", "GET /next"),
    good(
        "one of old", b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", "POST / abc"
    ),
    good(
        "one that is unknown",
        post(b"Expect: foo", b"Content-Length: 3", body=b"abc") + NEXT,
        "POST / abc",
        "GET /next",
    ),
    good(
        "one that is empty",
        post(b"Expect:", b"Content-Length: 3", body=b"abc") + NEXT,
        "POST / abc",
        "GET /next",
    ),
    bad("one of a body that is too large", post(b"Expect: 100-continue", b"Content-Length: 1048577"), 413),
]
TABLE: Final = [
    *REQUEST_LINES,
    *METHODS,
    *TARGETS,
    *HOSTS,
    *FIELDS,
    *LENGTHS,
    *CODINGS,
    *CHUNKS,
    *SEVERAL,
    *UPGRADES,
    *EXPECTATIONS,
]
