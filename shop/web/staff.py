"""Who of the staff sends a request: the session that Django gave the browser, remembered for some seconds.

Boards ask every second; a session is in two stores, and asking both each time would cost more than the answer.
"""

import asyncio
import re
import time
from concurrent.futures import Executor
from types import SimpleNamespace
from typing import Any, Final, cast

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.cached_db import SessionStore
from django.db import close_old_connections
from django.http import HttpRequest
from django_redis.exceptions import ConnectionInterrupted

from shop.stores import StoreUnavailable, store_faults
from shop.web import lanes
from shop.web.addresses import client_address
from shop.web.http import Request
from shop.web.problems import Kind, Problem

#: Who signs out, or is no longer of the staff, may look for so long.
MEMORY_S: Final = 5.0
#: For so long its pages have the places for staff. That opens nothing: each page looks for itself who asks.
PLACES_S: Final = 600.0
#: Guessed cookies must not fill memory.
LIMIT: Final = 1_000
#: As Django makes them. Any other text is no session, however long it is.
_SESSION: Final = re.compile(r"[a-z0-9]{32}")

_known: dict[str, tuple[float, bool]] = {}


async def require_staff(request: Request) -> None:
    """Let staff pass. Raises `Problem` 403 for everybody else, and `Crowded`."""
    if not await _is_of_staff(request):
        raise Problem(kind=Kind.FORBIDDEN, detail="For staff who are signed in.")


def is_known(request: Request) -> bool:
    """Whether this was a member of the staff a while ago."""
    looked_at, is_of_staff = _known.get(_session(request), (0.0, False))
    return is_of_staff and time.monotonic() < looked_at + PLACES_S


async def recognise(request: Request, place: Executor) -> None:
    """Look up whether a member of the staff asks, so that its next pages have the places for staff."""
    if session := _session(request):
        await _look_up(session, place)


async def _is_of_staff(request: Request) -> bool:
    session = _session(request)
    if not session:
        return False
    looked_at, is_of_staff = _known.get(session, (-MEMORY_S, False))
    now = asyncio.get_running_loop().time()
    if time.monotonic() < looked_at + MEMORY_S:
        return is_of_staff
    lane = lanes.STAFF if is_known(request) else lanes.DOOR
    async with lane.place(client_address(request), request.received_at or now) as place:
        return await _look_up(session, place)


def _session(request: Request) -> str:
    session = request.cookie(settings.SESSION_COOKIE_NAME)
    return session if _SESSION.fullmatch(session) else ""


async def _look_up(session: str, place: Executor) -> bool:
    found = await asyncio.get_running_loop().run_in_executor(place, _looked_up, session)
    if len(_known) >= LIMIT:
        _forget_some()
    _known[session] = (time.monotonic(), found)
    return found


def _forget_some() -> None:
    """Forget guesses first: they must not cost staff its places."""
    guesses = [session for session, (_, is_of_staff) in _known.items() if not is_of_staff]
    for session in guesses or list(_known):
        del _known[session]


def _looked_up(session: str) -> bool:
    close_old_connections()
    request = cast(HttpRequest, SimpleNamespace(session=SessionStore(session)))
    try:
        with store_faults():
            user: Any = get_user(request)
    except ConnectionInterrupted as away:
        raise StoreUnavailable(f"session: {away}") from away
    finally:
        close_old_connections()
    return bool(user.is_active and user.is_staff)
