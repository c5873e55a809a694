"""Who of the staff sends a request: the session that Django gave the browser, remembered for some seconds.

Boards ask every second; a session is in two stores, and asking both each time would cost more than the answer.
"""

import time
from types import SimpleNamespace
from typing import Any, Final, cast

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.cached_db import SessionStore
from django.db import close_old_connections
from django.http import HttpRequest
from django_redis.exceptions import ConnectionInterrupted

from shop.stores import StoreUnavailable, store_faults
from shop.web.http import Request
from shop.web.problems import Kind, Problem

#: Who signs out, or is no longer of the staff, may look for so long.
MEMORY_S: Final = 5.0
#: Guessed cookies must not fill memory, by their number or by their length.
LIMIT: Final = 1_000
_SESSION_MAX_LENGTH: Final = 40  # as Django's own table has it

_known: dict[str, tuple[float, bool]] = {}


async def require_staff(request: Request) -> None:
    """Let staff pass. Raises `Problem` 403 for everybody else."""
    session = request.cookie(settings.SESSION_COOKIE_NAME)
    if not 0 < len(session) <= _SESSION_MAX_LENGTH or not await _is_of_staff(session):
        raise Problem(kind=Kind.FORBIDDEN, detail="For staff who are signed in.")


async def _is_of_staff(session: str) -> bool:
    now = time.monotonic()
    known = _known.get(session)
    if known is None or known[0] < now:
        known = (now + MEMORY_S, await sync_to_async(_looked_up)(session))
        if len(_known) >= LIMIT:
            _known.clear()
        _known[session] = known
    return known[1]


def _looked_up(session: str) -> bool:
    close_old_connections()
    request = cast(HttpRequest, SimpleNamespace(session=SessionStore(session)))
    try:
        with store_faults():
            user: Any = get_user(request)
    except ConnectionInterrupted as away:
        raise StoreUnavailable(f"session: {away}") from away
    return bool(user.is_active and user.is_staff)
