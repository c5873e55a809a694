"""What people with pages of Django's own kind (admin, live board) see while a store is away."""

from typing import Final

import structlog
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.deprecation import MiddlewareMixin

from shop.stores import StoreUnavailable

log = structlog.get_logger()

LOOK_AGAIN_S: Final = 5


class OutagePage(MiddlewareMixin):
    """503 instead of 500 where a view met a store that is away. Such a page needs no session, which is in PostgreSQL."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """The page; None for any other exception, which is our fault."""
        if not isinstance(exception, (OperationalError, InterfaceError, StoreUnavailable)):
            return None
        log.warning("store unavailable", path=request.path, reason=str(exception))
        response = HttpResponse(render_to_string("503.html"), status=503)
        response["Retry-After"] = str(LOOK_AGAIN_S)
        if request.method == "GET":
            response["Refresh"] = str(LOOK_AGAIN_S)
        return response
