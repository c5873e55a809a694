"""The web process: API requests run inside the event loop, everything else goes to Django's own handler.

API views are plain Django views that await their stores; they need none of Django's middleware (no session, no CSRF, no
redirects), whose adaptation to async costs more than the whole of an order's acceptance. One loop per process: the
requests that arrive while Redis answers share the next round trip (`shop.intake`), and thousands can wait for a result.
"""

import asyncio
import io
import os
from collections.abc import Awaitable, Callable
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup(set_prefix=False)

import structlog  # noqa: E402 - Django must be set up before anything of the shop is imported
from django.conf import settings  # noqa: E402
from django.core.exceptions import TooManyFieldsSent  # noqa: E402
from django.core.handlers.asgi import ASGIHandler, ASGIRequest  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import Resolver404, get_resolver  # noqa: E402

from shop import queue, results, storage_check  # noqa: E402
from shop.stores import StoreUnavailable, web_database, web_redis  # noqa: E402
from shop.web import metrics  # noqa: E402
from shop.web.parsing import request_id  # noqa: E402
from shop.web.problems import Kind, Problem  # noqa: E402
from shop.web.problems import response as problem_response  # noqa: E402

log = structlog.get_logger()

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

#: What Django's own handler serves.
_PAGES = ("/admin/", "/static/")


class Disconnected(Exception):
    """The client went away in the middle of its request."""


async def api(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one API request."""
    identity = _identity(scope)
    structlog.contextvars.bind_contextvars(request_id=identity)
    try:
        response = await _answer(scope, receive)
    except Disconnected:
        return
    finally:
        structlog.contextvars.clear_contextvars()
    response.headers["X-Request-ID"] = identity
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    metrics.count_request(scope["method"], response.status_code)
    await _send(response, send, with_body=scope["method"] != "HEAD")


async def _answer(scope: Scope, receive: Receive) -> HttpResponse:
    try:
        body = await _body(scope, receive)
        request = ASGIRequest(scope, io.BytesIO(body))
        found = get_resolver().resolve(request.path_info)
        response: HttpResponse = await found.func(request, *found.args, **found.kwargs)
        return response
    except Problem as problem:
        return problem_response(problem)
    except TooManyFieldsSent:
        return problem_response(Problem(kind=Kind.INVALID_REQUEST, detail="Too many query parameters."))
    except Resolver404:
        return problem_response(Problem(kind=Kind.NOT_FOUND))
    except StoreUnavailable as away:
        log.warning("store unavailable", reason=str(away))
        return problem_response(Problem(kind=Kind.UNAVAILABLE))
    except Disconnected:
        raise
    except Exception:
        log.exception("unexpected error", path=scope["path"])
        return problem_response(Problem(kind=Kind.INTERNAL_ERROR))


#: A client that is still sending does not read: a body that is too large is taken in, and thrown away, up to this size
#: before the answer says so. Beyond it the connection breaks.
DISCARD_BYTES = 16 * 1_048_576


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises `Problem` for one of more than `MAX_BODY_BYTES`, which is not kept in memory."""
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if declared.isdigit() and int(declared) > DISCARD_BYTES:
        raise Problem(kind=Kind.PAYLOAD_TOO_LARGE)
    body, size, more = b"", 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        body = body + chunk if size <= settings.MAX_BODY_BYTES else b""
        more = message.get("more_body", False) and size <= DISCARD_BYTES
    if size > settings.MAX_BODY_BYTES:
        raise Problem(kind=Kind.PAYLOAD_TOO_LARGE)
    return body


async def _send(response: HttpResponse, send: Send, *, with_body: bool) -> None:
    body = response.content
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    if response.status_code != 304:
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": body if with_body else b""})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            queue.fulfil_message(queue.EXAMPLE)  # build the template now, not in the first order
            await asyncio.to_thread(storage_check.warn_about_redis)
            await send({"type": "lifespan.startup.complete"})
        else:
            await results.settlements.close()
            await web_database.close()
            await web_redis().aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return


def _identity(scope: Scope) -> str:
    sent_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return request_id(sent_id.decode("latin-1") or None)


_django: Any = ASGIHandler()


async def pages(scope: Scope, receive: Receive, send: Send) -> None:
    """Let Django answer, and say which request it was."""
    identity = _identity(scope).encode()

    async def send_with_id(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", identity)]
        await send(message)

    await _django(scope, receive, send_with_id)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application that granian serves."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["path"].startswith(_PAGES) or scope["path"] == "/":
        await pages(scope, receive, send)
    else:
        await api(scope, receive, send)
