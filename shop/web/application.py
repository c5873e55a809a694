"""The answer to each request: the API's views run inside the event loop, everything else goes to Django's own handler.

API views are plain Django views that await their stores; they need none of Django's middleware (no session, no CSRF, no
redirects), whose adaptation to async costs more than the whole of an order's acceptance. One loop per process: the
requests that arrive while Redis answers share the next round trip (`shop.intake`), and thousands can wait for a result.
"""

from collections.abc import Awaitable, Callable

import structlog
from django.conf import settings
from django.core.exceptions import TooManyFieldsSent
from django.urls import Resolver404

from shop.routes import resolved
from shop.stores import StoreUnavailable
from shop.tracing import tracing
from shop.web import metrics
from shop.web.django_pages import page
from shop.web.http import Answer, Request
from shop.web.parsing import request_id
from shop.web.problems import Kind, Problem, page_meant
from shop.web.problems import response as problem_answer

log = structlog.get_logger()

#: What Django's own handler serves.
_PAGES = ("/admin/", "/static/", "/favicon.ico", "/products/", "/basket", "/orders", "/live/switch")

#: What is asked from inside, where there is no TLS, and with no key.
_ASKED_IN_CLEAR = frozenset({"/healthz", "/readyz", "/metrics"})

#: Each look into Django's settings costs a four-hundredth of an order.
_IS_HTTPS_ONLY: bool = settings.SECURE_SSL_REDIRECT


@tracing.served
async def application(request: Request) -> Answer:
    """The answer to a request, whatever it is and whatever goes wrong."""
    identity = request_id(request.header(b"x-request-id"))
    structlog.contextvars.bind_contextvars(request_id=identity)  # for as long as this request's task lives
    if request.path.startswith(_PAGES) or request.path in {"/", "/live"}:
        answer = await _answer(request, page)
    else:
        answer = await _answer(request, _view)
        answer.headers["x-content-type-options"] = "nosniff"
        answer.headers.setdefault("Cache-Control", "no-store")
    answer.headers["x-request-id"] = identity
    metrics.count_request(request.method, answer.status_code)
    return answer


async def _answer(request: Request, answered: Callable[[Request], Awaitable[Answer]]) -> Answer:
    try:
        if request.fault:
            raise request.fault
        return await answered(request)
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


def _require_https(request: Request) -> None:
    """Raise `Problem` where the request came without TLS, as `SecurityMiddleware` redirects pages.

    The API redirects nothing: a key that was sent in clear must not go on working.
    """
    if request.path not in _ASKED_IN_CLEAR:
        # As Django reads what SECURE_PROXY_SSL_HEADER names.
        scheme = request.header(b"x-forwarded-proto").partition(",")[0]
        if scheme.strip() != "https":
            raise Problem(kind=Kind.HTTPS_REQUIRED)


async def _view(request: Request) -> Answer:
    """The answer of the API's view that the path leads to. Raises `Resolver404` and whatever the view raises."""
    if _IS_HTTPS_ONLY:
        _require_https(request)
    found = resolved(request.path)
    answer: Answer = await found.func(request, *found.args, **found.kwargs)
    return answer


def _page_meant(request: Request) -> Answer | None:
    """The way to a problem's page for who follows its `type` from where it was met, which needs no API key."""
    page = page_meant(request.path)
    if page is None or request.method not in {"GET", "HEAD"} or request.sent(b"authorization"):
        return None
    return Answer(status_code=303, headers={"Location": page})
