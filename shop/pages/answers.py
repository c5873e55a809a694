"""What buyers are answered with: a page, the way to another one, or that it comes back by itself."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, JsonResponse
from django.shortcuts import render

from shop.pages.buyer import COOKIE, Buyer
from shop.stores import StoreUnavailable
from shop.web.problems import Kind

#: Seconds until a page that could not be shown asks again by itself.
_LOOK_AGAIN_S: Final = 3

_View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


def page(
    request: HttpRequest, buyer: Buyer, template: str, *, status: int = 200, **context: Any
) -> HttpResponse:
    """A page. Whoever is new gets a name with it, so that the first form has one."""
    response = render(request, f"storefront/{template}.html", {"buyer": buyer, **context}, status=status)
    if Buyer.of_cookie(request.COOKIES.get(COOKIE, "")) is None:
        buyer.keep(response)
    return response


def arrived_at(request: HttpRequest, now: float) -> float:
    """When a request arrived (loop time); `now` where that is not known."""
    scope = getattr(request, "scope", {})
    return float(scope.get("received_at") or now)


def wants_json(request: HttpRequest) -> bool:
    """Whether the storefront's script asks, which takes its answers as JSON."""
    return request.headers.get("Accept") == "application/json"


def lead_to(request: HttpRequest, address: str) -> HttpResponse:
    """Lead on to a page; a script is told where."""
    if wants_json(request):
        return JsonResponse({"href": address})
    return HttpResponseRedirect(address, status=303)


def later(
    request: HttpRequest, buyer: Buyer, template: str, kind: Kind, wait_s: int = 0, **context: Any
) -> HttpResponse:
    """It can't be done now, but in so many seconds (0: as `kind` says). The page is told by its template."""
    wait_s = wait_s or int(kind.headers["Retry-After"])
    response: HttpResponse
    if wants_json(request):
        told = {"wait_s": wait_s, "is_paused": kind is Kind.INTAKE_PAUSED}
        response = JsonResponse(told, status=kind.status)
    else:
        response = page(request, buyer, template, status=kind.status, wait_s=wait_s, **context)
    response["Retry-After"] = str(wait_s)
    return response


def may_be_away(view: _View) -> _View:
    """Say of a page that can't be shown without a store that it comes back by itself."""

    @wraps(view)
    async def answered(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return await view(request, *args, **kwargs)
        except (StoreUnavailable, TimeoutError):
            response = later(request, Buyer.of(request), "away", Kind.UNAVAILABLE)
            if request.method == "GET":
                response["Refresh"] = str(_LOOK_AGAIN_S)
            return response

    return answered
