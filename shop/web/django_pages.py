"""Pages: requests that Django's own handler answers, and its answers in one piece."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from asgiref.sync import ThreadSensitiveContext
from django.core.handlers.asgi import ASGIHandler
from django.db import connections

from shop.web import lanes, staff
from shop.web.addresses import client_address
from shop.web.content_coding import accepts_gzip
from shop.web.crowded import crowded
from shop.web.http import Answer, Request, without_escapes
from shop.web.lanes import Crowded, Lane
from shop.web.parsing import HEADER_MAX_LENGTH
from shop.web.sign_in import failures

_django: Any = ASGIHandler()
# Places for staff have threads of their own. What one of them has kept would be of no use to a page on another.
connections.settings["default"]["CONN_MAX_AGE"] = 0

#: Pages for staff, whose views wait for PostgreSQL.
_FOR_STAFF = ("/admin", "/live")
_SIGN_IN = "/admin/login/"
_FILES = ("/static/", "/favicon.ico")


async def page(request: Request) -> Answer:
    """Django's answer, or that too many ask for pages at this moment."""
    arrived_at = request.received_at or asyncio.get_running_loop().time()
    address = client_address(request)
    lane = _lane(request)
    is_suspect = lane is lanes.SIGN_IN and failures.is_suspect(address, time.monotonic())
    try:
        async with (
            lane.place(address, arrived_at, behind=lanes.SUSPECT if is_suspect else 0) as place,
            ThreadSensitiveContext(executor=place),
        ):
            if lane is lanes.DOOR:
                await staff.recognise(request, place)
            return await _answered(request, address)
    except Crowded:
        return crowded(request)


def _lane(request: Request) -> Lane:
    if request.path == _SIGN_IN and request.method == "POST":
        return lanes.SIGN_IN
    if request.path.startswith(_FOR_STAFF):
        return lanes.STAFF if staff.is_known(request) else lanes.DOOR
    if request.path.startswith(_FILES):
        return lanes.FILES
    return lanes.VISITORS if request.method in {"GET", "HEAD"} else lanes.FORMS


async def _answered(request: Request, address: str) -> Answer:
    answer = Answer()
    cookies: list[str] = []
    parts: list[bytes] = []
    unread = [{"type": "http.request", "body": request.body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        # Django then waits for the client to leave, until it has answered.
        return unread.pop() if unread else await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            parts.append(message.get("body", b""))
            return
        answer.status_code = message["status"]
        for raw_name, raw_value in message["headers"]:
            name, value = raw_name.decode().lower(), raw_value.decode("latin-1")
            if name == "set-cookie":
                cookies.append(value)
            elif name == "content-type":
                answer.content_type = value
            elif name != "content-length":
                answer.headers[name] = value

    await _django(_scope(request, address), receive, send)
    answer.content, answer.cookies = b"".join(parts), cookies
    return answer


def _headers(request: Request) -> Iterator[tuple[bytes, bytes]]:
    """The headers as sent, but for two that Django and WhiteNoise do not read as RFC 9110 means them.

    A part is asked for with GET alone (14.2), and it is one of the file as it is: packed, its bytes would be others.
    """
    asks_for_part = request.method == "GET" and b"range" in request.headers
    for name, values in request.headers.items():
        if name == b"accept-encoding":
            if not asks_for_part and accepts_gzip(request.header(name)):
                yield name, b"gzip"
        elif name != b"range" or asks_for_part:
            for value in values:
                yield name, _readable(name, value).encode("latin-1")


def _scope(request: Request, address: str) -> dict[str, Any]:
    """The request as ASGI describes it (ASGI 3.0, HTTP connection scope), and when it arrived."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        # Of a file, WhiteNoise would give the head without a body, whose length is then nobody's to tell.
        "method": "GET" if request.method == "HEAD" else request.method,
        "scheme": "http",
        "path": request.path,
        "query_string": request.query_string,
        "root_path": "",
        "headers": list(_headers(request)),
        "client": (address, 0),
        "server": None,
        "received_at": request.received_at,
    }


def _readable(name: bytes, value: str) -> str:
    """A header's value as Django can read it in a short time.

    Django leaves parameters of a type to Python's `email`, which takes half a second for 64 KB of semicolons.
    """
    if name == b"cookie":
        return without_escapes(value)
    return value[:HEADER_MAX_LENGTH] if name == b"content-type" else value
