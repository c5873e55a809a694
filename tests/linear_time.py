"""How the time of all that reads a client's text grows with its length.

Run as a program, it prints what is too slow, as JSON by reader. Each reader has a process of its own, which the kernel ends
once a text has taken `LIMIT_S`: a pattern that tries every reading of a text neither ends nor listens.
"""

import asyncio
import json
import logging
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from io import BytesIO
from ipaddress import ip_network
from typing import Final, NamedTuple
from urllib.parse import unquote

from shop.web import process  # noqa: F401 # isort: skip - sets Django up, before anything of the shop is imported
from django.conf import settings
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.messages.storage.cookie import CookieStorage
from django.core.exceptions import SuspiciousOperation, ValidationError
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.http.multipartparser import MultiPartParserError
from django.middleware.csrf import CsrfViewMiddleware
from django.middleware.gzip import GZipMiddleware
from django.urls import Resolver404, get_resolver
from django.utils.http import url_has_allowed_host_and_scheme
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shop import models
from shop.admin.api_keys import ApiKeyForm
from shop.admin.listing import beyond
from shop.clients import digest
from shop.pages.buyer import Buyer
from shop.pages.static_files import StaticFiles
from shop.pages.storefront import whole
from shop.web import access, application, django_pages, orders, parsing
from shop.web.addresses import client_address
from shop.web.content_coding import accepts_gzip
from shop.web.crowded import crowded
from shop.web.http import Request
from shop.web.problems import Problem

PROXY: Final = "10.0.0.1"
if __name__ == "__main__":
    # As where all of it is read: behind a proxy of ours, with TLS. Whoever imports this module keeps the settings it has.
    settings.TRUSTED_PROXIES = [ip_network(PROXY)]
    settings.SECURE_SSL_REDIRECT = True

SHORT, LONG, FULL = 256, 1_024, 65_536
#: Four times the text may take so many times as long: in proportion it takes four times, by the square sixteen.
MOST_RATIO: Final = 8.0
#: Seconds of CPU for one text of any length.
LIMIT_S: Final = 0.5
_ROUNDS: Final = 5
_MEASURABLE_S: Final = 0.005

#: What is repeated to the full length, and what it ends with.
SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    "blanks": (" ", "@"),
    "tabs": ("\t", "@"),
    "blanks and tabs": (" \t", "\0"),
    "semicolons": (";", "@"),
    "semicolon, blank": ("; ", "@"),
    "blank, semicolon": (" ;", "@"),
    "semicolon among tabs": ("\t;\t\t", "@"),
    "parameters": ("; a=b", "@"),
    "parameters with open quotes": (';a="', ""),
    "commas": (",", "@"),
    "comma, blank": (", ", "@"),
    "blank, comma": (" ,", "@"),
    "quotes": ('"', ""),
    "quotes and commas": ('",', "x"),
    "backslashes": ("\\", ""),
    "escaped quotes": ('\\"', ""),
    "quotes and backslashes": ('"\\', ""),
    "letters": ("a", "\0"),
    "words": ("a ", "\t"),
    "digits": ("0", "x"),
    "nines": ("9", ""),
    "slashes": ("/a", "\0"),
    "percents": ("%41%", "@"),
    "ampersands": ("&a=%2b", "@"),
    "brackets": ("[{", "@"),
    "beyond ASCII": ("\u00e9", "@"),
    "mixed": ('; \t,"\\=a b', '@"'),
}


class Reader(NamedTuple):
    """What reads a text. Each shape comes after each of `beginnings`, which lead to where it hurts, and before `end`."""

    read: Callable[[str], object]
    beginnings: tuple[str, ...] = ("",)
    end: str = ""


def _django_request(header: str, text: str, body: bytes = b"") -> ASGIRequest:
    """A request as pages get it."""
    headers = {b"host": ["localhost"], header.encode(): [text]}
    request = Request(method="POST", path="/basket", headers=headers, body=body)
    return ASGIRequest(django_pages._scope(request, "127.0.0.1"), BytesIO(body))


def _form(body: str, content_type: str = "application/x-www-form-urlencoded") -> object:
    return _django_request("content-type", content_type, body.encode()).POST


def _checked_for_forgery(header: str, text: str) -> None:
    middleware = CsrfViewMiddleware(lambda _: HttpResponse())
    request = _django_request(header, text)
    middleware.process_request(request)
    middleware.process_view(request, lambda _: HttpResponse(), (), {})


_files: Final = StaticFiles(lambda _: asyncio.sleep(0))  # type: ignore[arg-type, return-value]
_file: Final = _files.files["/static/icon.svg"]


def _static(header: str) -> Callable[[str], object]:
    return lambda text: _file.get_response("HEAD", {f"HTTP_{header}": text})


_w3c: Final = TraceContextTextMapPropagator()
_TRACE: Final = f"00-{'a' * 32}-{'b' * 16}-01"
_JSON: Final = "application/json"
_PART: Final = "Content-Disposition: form-data; name="
_MULTIPART: Final = "multipart/form-data; boundary=a"

#: By header: what reads it in `shop.web`, `shop.pages` and `shop.tracing`.
OF_HEADERS: Final[Mapping[str, Reader]] = {
    "accept": Reader(lambda text: crowded(Request(method="GET", path="/", headers={b"accept": [text]}))),
    "accept-encoding": Reader(accepts_gzip, ("", "gzip;q=")),
    "authorization": Reader(lambda text: digest(access.bearer_key(text)), ("", "Bearer ")),
    "content-type": Reader(
        lambda text: parsing.parse_order(b"{}", text, max_lines=9),
        ("", _JSON, f"{_JSON};", f"{_JSON}; a=", f'{_JSON}; a="'),
    ),
    "cookie": Reader(
        lambda text: Request(method="GET", path="/", headers={b"cookie": [text]}).cookie("buyer"),
        ("", 'buyer="'),
        '"',
    ),
    "idempotency-key": Reader(lambda text: parsing.parse_idempotency_key([text]), ("", '"', "a")),
    "if-none-match": Reader(lambda text: orders._matches(text, '"a"'), ("", 'W/"')),
    "prefer": Reader(lambda text: parsing.parse_prefer_wait([text]), ("", "wait=", 'wait="', 'a="')),
    "traceparent": Reader(lambda text: _w3c.extract({"traceparent": text}), ("", f"{_TRACE}-")),
    "tracestate": Reader(lambda text: _w3c.extract({"traceparent": _TRACE, "tracestate": text}), ("", "a=1")),
    "x-forwarded-for": Reader(
        lambda text: client_address(
            Request(method="GET", path="/", headers={b"x-forwarded-for": [text]}, peer=(PROXY, 1))
        ),
        ("", PROXY),
    ),
    "x-forwarded-proto": Reader(
        lambda text: application._require_https(
            Request(method="GET", path="/", headers={b"x-forwarded-proto": [text]})
        ),
        ("", "https"),
    ),
    "x-request-id": Reader(parsing.request_id),
}
#: Other parts of requests, and what Django and WhiteNoise read for pages.
OF_OTHERS: Final[Mapping[str, Reader]] = {
    "address": Reader(
        lambda text: get_resolver().resolve(unquote(text)),
        ("/", "/api/v1/products/", "/api/v1/orders/", "/products/", "/admin/shop/order/"),
    ),
    "admin: place in a list": Reader(lambda text: beyond(models.Order, ("-accepted_at", "-id"), text), ("", "2026-01-01~")),
    "admin: name of a client": Reader(ApiKeyForm.base_fields["client"].clean),
    "body of a movement": Reader(
        lambda text: parsing.parse_stock_movement(text.encode(), _JSON), ("", '{"delta":', '{"reason":"')
    ),
    "body of an order": Reader(
        lambda text: parsing.parse_order(text.encode(), _JSON, max_lines=9),
        ("", '{"', '{"items":[', '{"items":[{"sku":"', '{"items":[{"sku":"a","quantity":', '{"items":[{"quantity":0.'),
        '"}]}',
    ),
    "cookie of a buyer": Reader(Buyer.of_cookie, ("", "a:b:")),
    "cookie of messages": Reader(lambda text: CookieStorage(_django_request("x", ""))._decode(text)),
    "cursor": Reader(parsing.parse_cursor),
    "form": Reader(_form, ("", "sku=")),
    "form in parts": Reader(
        lambda text: _form(text, _MULTIPART),
        ("", "--a\r\n", f"--a\r\n{_PART}", f"--a\r\n{_PART}a\r\n\r\n"),
    ),
    "form: quantity": Reader(whole),
    "limit": Reader(parsing.parse_limit),
    "page: Accept-Encoding": Reader(
        lambda text: GZipMiddleware(lambda _: HttpResponse("a" * 300)).process_response(
            _django_request("accept-encoding", text), HttpResponse("a" * 300)
        ),
        ("", "gzip"),
    ),
    "page: Content-Type": Reader(lambda text: _form("", text), ("", "multipart/form-data; boundary=", "text/html;")),
    "page: Cookie": Reader(lambda text: _django_request("cookie", text).COOKIES, ("", 'a="'), '"'),
    "page: Host": Reader(lambda text: _django_request("host", text).get_host(), ("", "localhost:", "[::")),
    "page: Origin": Reader(lambda text: _checked_for_forgery("origin", text), ("", "https://")),
    "page: Referer": Reader(lambda text: _checked_for_forgery("referer", text), ("", "https://")),
    "page: CSRF token": Reader(lambda text: _checked_for_forgery("x-csrftoken", text)),
    "query": Reader(lambda text: Request(method="GET", path="/", query_string=text.encode()).query, ("", "q=")),
    "search": Reader(parsing.parse_search),
    "sign-in: next": Reader(lambda text: url_has_allowed_host_and_scheme(text, {"localhost"}), ("", "/", "https://")),
    "static: Accept-Encoding": Reader(_static("ACCEPT_ENCODING")),
    "static: If-Modified-Since": Reader(_static("IF_MODIFIED_SINCE"), ("", "Mon, 1 Jan 2026 ")),
    "static: If-None-Match": Reader(_static("IF_NONE_MATCH")),
    "static: Range": Reader(_static("RANGE"), ("", "bytes=", "bytes=0-")),
}  # fmt: skip

#: By every compiled pattern of ours: how it is used. All are run, whoever's text they meet.
PATTERNS: Final[Mapping[str, str]] = {
    "shop.catalogue._PRICE": "fullmatch",
    "shop.catalogue._STOCK": "fullmatch",
    "shop.client._VISIBLE": "fullmatch",
    "shop.clients._NAME": "fullmatch",
    "shop.domain._SKU": "fullmatch",
    "shop.domain._TEXT": "fullmatch",
    "shop.domain._UUID": "fullmatch",
    "shop.figures._NUMBER": "fullmatch",
    "shop.order_history._NOT_TEXT": "findall",
    "shop.order_history._WHOLE": "fullmatch",
    "shop.pages.buyer._KEY": "fullmatch",
    "shop.pages.byte_ranges._RANGE": "fullmatch",
    "shop.pages.showcase._OWN": "findall",
    "shop.pages.static_files._ANY_RELEASE": "findall",
    "shop.sale_plots._SIZE": "findall",
    "shop.stock._NUMBER": "fullmatch",
    "shop.stock._VERSION": "fullmatch",
    "shop.stores._NOT_NOW": "search",
    "shop.stores._WRONG_TYPE": "search",
    "shop.web.connection._ABSOLUTE": "match",
    "shop.web.connection._HOST": "fullmatch",
    "shop.web.connection._REQUEST_LINE": "match",
    "shop.web.content_coding._WEIGHT": "fullmatch",
    "shop.web.parsing._BARE_KEY": "fullmatch",
    "shop.web.parsing._ESCAPED": "findall",
    "shop.web.parsing._JSON_TYPE": "fullmatch",
    "shop.web.parsing._LIMIT": "fullmatch",
    "shop.web.parsing._LIST_ELEMENT": "findall",
    "shop.web.parsing._PARAMETERS": "findall",
    "shop.web.parsing._QUOTATION": "findall",
    "shop.web.parsing._QUOTED_KEY": "fullmatch",
    "shop.web.parsing._REQUEST_ID": "fullmatch",
    "shop.web.parsing._SECONDS": "fullmatch",
    "shop.web.staff._SESSION": "fullmatch",
    "workers.transport._TAG": "match",
}

#: Negative controls: patterns that were ours, and one that reads zeros in two places.
_OLD_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_OLD_JSON_TYPE: Final = r"application/json((?:[ \t]*;[ \t]*(?:[a-z]+=[a-z]+)?)*)[ \t]*"
CONTROLS: Final[Mapping[str, Reader]] = {
    "blanks in two places": Reader(re.compile(_OLD_JSON_TYPE).fullmatch, (_JSON,)),
    "quotes without end": Reader(re.compile(rf'(?:[^,"]|{_OLD_QUOTED})+').findall),
    "zeros in two places": Reader(re.compile("0*([0-9]+)").fullmatch),
}


def _of_pattern(name: str, use: str) -> Reader:
    module, _, attribute = name.rpartition(".")
    pattern = getattr(import_module(module), attribute)
    run = getattr(pattern, use)
    return Reader((lambda text: run(text.encode())) if isinstance(pattern.pattern, bytes) else run)


def all_readers() -> dict[str, Reader]:
    """By name, the negative controls too."""
    of_patterns = {name: _of_pattern(name, use) for name, use in PATTERNS.items()}
    return {**OF_HEADERS, **OF_OTHERS, **of_patterns, **CONTROLS}


_REFUSED: Final = (
    Problem,
    ValueError,
    SuspiciousOperation,
    ValidationError,
    IncorrectLookupParameters,
    MultiPartParserError,
    Resolver404,
)


def _seconds(read: Callable[[str], object], text: str, times: int) -> float:
    """CPU seconds of reading a text once, on average. The clock of the process is coarse while a timer watches it."""
    begun = time.thread_time()
    for _ in range(times):
        with suppress(*_REFUSED):
            read(text)
    return (time.thread_time() - begun) / times


def _ratio(read: Callable[[str], object], short: str, long: str) -> float:
    """How many times as long the long text takes, by the best of five; of one time each where that is clear enough."""

    def best(text: str, times: int) -> float:
        return min(_seconds(read, text, times) for _ in range(_ROUNDS))

    coarse = best(long, 1) / best(short, 1)
    if coarse < 0.75 * MOST_RATIO or best(long, 1) > LIMIT_S / _ROUNDS:
        return coarse
    return best(long, _times(read, long)) / best(short, _times(read, short))


def _times(read: Callable[[str], object], text: str) -> int:
    """So many times take long enough to be measured."""
    return 1 + int(_MEASURABLE_S / max(_seconds(read, text, 1), 1e-7))


def _texts(reader: Reader) -> Iterator[tuple[str, Callable[[int], str]]]:
    """By name: what makes a text of a given length."""
    for beginning in reader.beginnings:
        for name, (unit, tail) in SHAPES.items():

            def text(length: int, beginning: str = beginning, unit: str = unit, tail: str = tail) -> str:
                room = length - len(beginning + tail + reader.end)
                return beginning + (unit * (room // len(unit) + 1))[:room] + tail + reader.end

            yield f"{beginning!r}, then {name}", text


def _measure(reader: Reader, tell: Callable[[str], object]) -> None:
    """Tell of each text before it is read, and then by how much it is too slow if it is."""
    for name, text in _texts(reader):
        tell(f"{name}\t")
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)  # SIGPROF ends the process
        ratio = _ratio(reader.read, text(SHORT), text(LONG))
        tell(f"{ratio:.1f}" if ratio >= MOST_RATIO else "")
        _seconds(reader.read, text(FULL), 1)
        signal.setitimer(signal.ITIMER_PROF, 0)
        tell("\n")


def _begun(reader: Reader) -> tuple[int, int]:
    """A process that measures a reader: its id, and where to read what it tells."""
    source, target = os.pipe()
    pid = os.fork()
    if pid:
        os.close(target)
        return pid, source
    try:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        _measure(reader, lambda text: os.write(target, text.encode()))
    except BaseException:  # noqa: BLE001 - printed here, and reported as too slow
        traceback.print_exc()
    finally:
        os._exit(0)


def _found(pid: int, source: int) -> dict[str, float]:
    """By text that was too slow: how many times as long the long one took."""
    with open(source) as stream:
        told = stream.read()
    os.waitpid(pid, 0)
    rows = [line.partition("\t") for line in told.split("\n") if line]
    # Of the text at which a process was ended nothing more was told.
    is_cut = not told.endswith("\n")
    return {
        name: float(ratio or "inf")
        for at, (name, _, ratio) in enumerate(rows)
        if ratio or (is_cut and at == len(rows) - 1)
    }


def too_slow(readers: Mapping[str, Reader]) -> dict[str, dict[str, float]]:
    """By reader: the texts that it is too slow with. One process for each, as many at a time as there are processors."""
    names, together, found = list(readers), os.cpu_count() or 1, {}
    for at in range(0, len(names), together):
        begun = {name: _begun(readers[name]) for name in names[at : at + together]}
        found |= {name: slow for name, place in begun.items() if (slow := _found(*place))}
    return found


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # what libraries think of such texts
    print(json.dumps(too_slow(all_readers())))
