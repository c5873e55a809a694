"""What browsers are told about every page that Django serves."""

from collections.abc import Awaitable, Callable

from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import async_only_middleware

from shop.web.content_policy import CONTENT_SECURITY_POLICY

_Answering = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


@async_only_middleware
def page_headers(get_response: _Answering) -> _Answering:
    """Add the policy, and keep pages out of caches unless they say otherwise: most show one person's things."""

    async def answered(request: HttpRequest) -> HttpResponseBase:
        response = await get_response(request)
        response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return answered
