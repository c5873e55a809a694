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
from django.core.exceptions import TooManyFieldsSent  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.db import connections  # noqa: E402
from django.urls import Resolver404, ResolverMatch, get_resolver  # noqa: E402

from shop import figures, intake, queue, results, storage_check  # noqa: E402
from shop.stores import StoreUnavailable, order_database, web_database, web_redis  # noqa: E402
from shop.tracing import tracing  # noqa: E402
from shop.web import metrics  # noqa: E402
from shop.web.bodies import Receive, replayed, whole_body  # noqa: E402
from shop.web.draining import draining  # noqa: E402
from shop.web.http import Answer, Request  # noqa: E402
from shop.web.parsing import request_id  # noqa: E402
from shop.web.problems import Kind, Problem, page_meant  # noqa: E402
from shop.web.problems import response as problem_answer  # noqa: E402
from workers.memory import keep_what_is_loaded  # noqa: E402
from workers.open_files import allow_open_files  # noqa: E402

log = structlog.get_logger()

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]

#: What Django's own handler serves.
_PAGES = ("/admin/", "/static/", "/favicon.ico", "/products/", "/basket", "/orders", "/live/switch")


async def api(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one API request."""
    request = Request(scope)
    identity = request_id(request.header(b"x-request-id"))
    structlog.contextvars.bind_contextvars(request_id=identity)  # for as long as this request's task lives
    answer = await _answer(request, receive)
    answer.headers["X-Request-ID"] = identity
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers.setdefault("Cache-Control", "no-store")
    if draining.is_on:
        answer.headers["Connection"] = "close"
    metrics.count_request(request.method, answer.status_code)
    await _send(answer, send, with_body=request.method != "HEAD")


async def _answer(request: Request, receive: Receive) -> Answer:
    try:
        request.body = await whole_body(request, receive)
        found = _resolved(request.path)
        answer: Answer = await found.func(request, *found.args, **found.kwargs)
        return answer
    except Problem as problem:
        return (problem.kind is Kind.UNAUTHORIZED and _page_meant(request)) or problem_answer(problem)
    except TooManyFieldsSent:
        return problem_answer(Problem(kind=Kind.INVALID_REQUEST, detail="Too many query parameters."))
    except Resolver404:
        return _page_meant(request) or problem_answer(Problem(kind=Kind.NOT_FOUND))
    except (StoreUnavailable, TimeoutError) as away:
        log.warning("store unavailable", path=request.path, reason=str(away) or "no answer in time")
        return problem_answer(Problem(kind=Kind.UNAVAILABLE))
    except Exception:
        log.exception("unexpected error", path=request.path)
        return problem_answer(Problem(kind=Kind.INTERNAL_ERROR))


def _page_meant(request: Request) -> Answer | None:
    """The way to a problem's page for who follows its `type` from where it was met, which needs no API key."""
    page = page_meant(request.path)
    if page is None or request.method not in {"GET", "HEAD"} or request.sent(b"authorization"):
        return None
    return Answer(status_code=303, headers={"Location": page})


@lru_cache(maxsize=1024)
def _resolved(path: str) -> ResolverMatch:
    return get_resolver().resolve(path)


async def _send(answer: Answer, send: Send, *, with_body: bool) -> None:
    body = answer.content
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    if body:
        headers.append((b"content-type", answer.content_type.encode()))
    if answer.status_code != 304:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": body if with_body else b""})


#: The server takes 8,192 connections in each process, beside which its own files and those to the stores are few.
OPEN_FILES = 10_000


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            allow_open_files(OPEN_FILES)
            queue.fulfil_message(queue.EXAMPLE)  # build the template now, not in the first order
            await asyncio.to_thread(storage_check.warn_about_redis)
            draining.watch(asyncio.get_running_loop())
            tracing.begin()
            keep_what_is_loaded()
            await send({"type": "lifespan.startup.complete"})
        else:
            await results.close()
            await intake.close()
            await web_database.close()
            await order_database.close()
            await web_redis().aclose()
            await asyncio.to_thread(figures.tally.tell)
            await asyncio.to_thread(tracing.close)
            await send({"type": "lifespan.shutdown.complete"})
            return


_django: Any = ASGIHandler()
# Each of its requests has a thread of its own. A connection that was kept would be met by no other thread, and stay open
# until the collector of garbage comes by, which is seldom here (`workers.memory`): some pages, and PostgreSQL had none left.
connections.settings["default"]["CONN_MAX_AGE"] = 0


async def pages(scope: Scope, receive: Receive, send: Send) -> None:
    """Let Django answer, and say which request it was.

    The body is read here, within our limits: Django would wait for it for ever, and keep it on disk however large it is.
    """
    request = Request(scope)
    identity = request_id(request.header(b"x-request-id"))
    structlog.contextvars.bind_contextvars(request_id=identity)
    try:
        body = await whole_body(request, receive)
    except Problem as problem:
        refusal = problem_answer(problem)
        refusal.headers["X-Request-ID"] = identity
        metrics.count_request(request.method, refusal.status_code)
        await _send(refusal, send, with_body=True)
        return

    async def send_with_id(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", identity.encode())]
            metrics.count_request(request.method, message["status"])
        await send(message)

    await _django(scope, replayed(body, receive), send_with_id)


@tracing.served
async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application that granian serves."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["path"].startswith(_PAGES) or scope["path"] in {"/", "/live"}:
        await pages(scope, receive, send)
    else:
        await api(scope, receive, send)
