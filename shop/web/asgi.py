"""The web tier for any ASGI server, should its own be given up: `uvicorn shop.web.asgi:application` (ASGI 3.0).

Such a server answers with the same views. docs/go-live.md has the command, and what is lost with it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from shop.web import process  # isort: skip - sets Django up, before anything of the shop is imported
from django.conf import settings

from shop.web.application import application as answer_to
from shop.web.http import Answer, Request
from shop.web.problems import Kind, Problem

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_BODILESS: Final = {204, 304}


async def application(scope: Message, receive: Receive, send: Send) -> None:
    """One request, or the life of the process."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "http":
        await _serve(_request(scope), receive, send)
    else:
        raise NotImplementedError(f"an ASGI scope of type {scope['type']}")


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    await process.begin()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await process.end()
    await send({"type": "lifespan.shutdown.complete"})


def _request(scope: Message) -> Request:
    headers: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.lower(), []).append(value.decode("latin-1"))
    peer = scope.get("client")
    return Request(
        method=scope["method"],
        path=scope["path"],
        query_string=scope["query_string"],
        headers=headers,
        peer=peer and tuple(peer),
    )


async def _serve(request: Request, receive: Receive, send: Send) -> None:
    if not await _receive_body(request, receive):
        return
    leaving = asyncio.ensure_future(receive())  # the next message is that the client has left
    leaving.add_done_callback(lambda _: request.leave())
    try:
        answer = await answer_to(request)
    finally:
        leaving.cancel()
    await send(
        {"type": "http.response.start", "status": answer.status_code, "headers": _head(request, answer)}
    )
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else answer.content})


async def _receive_body(request: Request, receive: Receive) -> bool:
    """Read the body into the request, or why it was not read to its end; whether the client is still there."""
    body, has_more = bytearray(), True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
        if len(body) > settings.MAX_BODY_BYTES:
            request.fault, request.is_last = Problem(kind=Kind.PAYLOAD_TOO_LARGE), True
            return True
    request.body = bytes(body)
    return True


def _head(request: Request, answer: Answer) -> list[tuple[bytes, bytes]]:
    fields = [(name.lower(), value) for name, value in answer.fields()]
    if answer.status_code not in _BODILESS:
        fields.append(("content-length", str(len(answer.content))))
    if request.is_last:
        fields.append(("connection", "close"))
    return [(name.encode(), value.encode("latin-1")) for name, value in fields]
