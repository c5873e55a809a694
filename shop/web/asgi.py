"""The web process: API requests run inside the event loop, everything else goes to Django's own handler.

API views are plain Django views that await their stores; they need none of Django's middleware (no session, no CSRF, no
redirects), whose adaptation to async costs more than the whole of an order's acceptance. One loop per process: the
requests that arrive while Redis answers share the next round trip (`shop.intake`), and thousands can wait for a result.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup(set_prefix=False)

import structlog  # noqa: E402 - Django must be set up before anything of the shop is imported
from django.conf import settings  # noqa: E402
from django.core.exceptions import TooManyFieldsSent  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.urls import Resolver404, ResolverMatch, get_resolver  # noqa: E402

from shop import intake, queue, results, storage_check  # noqa: E402
from shop.stores import StoreUnavailable, order_database, web_database, web_redis  # noqa: E402
from shop.web import metrics  # noqa: E402
from shop.web.draining import draining  # noqa: E402
from shop.web.http import Answer, Request  # noqa: E402
from shop.web.parsing import request_id  # noqa: E402
from shop.web.problems import Kind, Problem  # noqa: E402
from shop.web.problems import response as problem_answer  # noqa: E402
from workers.memory import keep_what_is_loaded  # noqa: E402

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
    request = Request(scope)
    identity = request_id(request.header(b"x-request-id"))
    structlog.contextvars.bind_contextvars(request_id=identity)  # for as long as this request's task lives
    try:
        answer = await _answer(request, receive)
    except Disconnected:
        return
    answer.headers["X-Request-ID"] = identity
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers.setdefault("Cache-Control", "no-store")
    if draining.is_on:
        answer.headers["Connection"] = "close"
    metrics.count_request(request.method, answer.status_code)
    await _send(answer, send, with_body=request.method != "HEAD")


async def _answer(request: Request, receive: Receive) -> Answer:
    try:
        request.body = await _body(request, receive)
        found = _resolved(request.path)
        answer: Answer = await found.func(request, *found.args, **found.kwargs)
        return answer
    except Problem as problem:
        return problem_answer(problem)
    except TooManyFieldsSent:
        return problem_answer(Problem(kind=Kind.INVALID_REQUEST, detail="Too many query parameters."))
    except Resolver404:
        return problem_answer(Problem(kind=Kind.NOT_FOUND))
    except (StoreUnavailable, TimeoutError) as away:
        log.warning("store unavailable", reason=str(away) or "no answer in time")
        return problem_answer(Problem(kind=Kind.UNAVAILABLE))
    except Disconnected:
        raise
    except Exception:
        log.exception("unexpected error", path=request.path)
        return problem_answer(Problem(kind=Kind.INTERNAL_ERROR))


@lru_cache(maxsize=1024)
def _resolved(path: str) -> ResolverMatch:
    return get_resolver().resolve(path)


#: A client that is still sending does not read: a body that is too large is taken in, and thrown away, up to this size
#: before the answer says so. Beyond it the connection breaks.
DISCARD_BYTES = 16 * 1_048_576
_MAX_BODY_BYTES: int = settings.MAX_BODY_BYTES


async def _body(request: Request, receive: Receive) -> bytes:
    """The whole body. Raises `Problem` for one of more than `MAX_BODY_BYTES`, which is not kept in memory."""
    length = request.header(b"content-length")
    declared = int(length) if length.isdigit() else 0
    if declared > DISCARD_BYTES:
        raise Problem(kind=Kind.PAYLOAD_TOO_LARGE)
    body, size, more = b"", 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        body = body + chunk if size <= _MAX_BODY_BYTES else b""
        # granian tells the end of a body in a message of its own: nobody who has all of it need wait for that.
        more = message.get("more_body", False) and size != declared and size <= DISCARD_BYTES
    if size > _MAX_BODY_BYTES:
        raise Problem(kind=Kind.PAYLOAD_TOO_LARGE)
    return body


async def _send(answer: Answer, send: Send, *, with_body: bool) -> None:
    body = answer.content
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    if body:
        headers.append((b"content-type", answer.content_type.encode()))
    if answer.status_code != 304:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": body if with_body else b""})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            queue.fulfil_message(queue.EXAMPLE)  # build the template now, not in the first order
            await asyncio.to_thread(storage_check.warn_about_redis)
            draining.watch(asyncio.get_running_loop())
            keep_what_is_loaded()
            await send({"type": "lifespan.startup.complete"})
        else:
            await results.close()
            await intake.close()
            await web_database.close()
            await order_database.close()
            await web_redis().aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return


_django: Any = ASGIHandler()


async def pages(scope: Scope, receive: Receive, send: Send) -> None:
    """Let Django answer, and say which request it was."""
    identity = request_id(Request(scope).header(b"x-request-id")).encode()

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
