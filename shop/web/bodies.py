"""The body of a request: all of it, or a problem. A sender may be slow, endless, or not keep to HTTP."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from django.conf import settings

from shop.web.http import Request
from shop.web.problems import Kind, Problem

Receive = Callable[[], Awaitable[dict[str, Any]]]

#: A client that is still sending does not read: a body that is too large is taken in, and thrown away, up to this size
#: before the answer says so. Beyond it the connection breaks.
DISCARD_BYTES: Final = 16 * 1_048_576
#: Each part of a body costs as much as a small request. Networks cut 1 MiB into some 700 parts.
PARTS_MAX: Final = 10_000
_MAX_BODY_BYTES: int = settings.MAX_BODY_BYTES
_BODY_TIMEOUT_S: int = settings.BODY_TIMEOUT_S


async def whole_body(request: Request, receive: Receive) -> bytes:
    """The whole body. Raises `Problem` for one that is too large, too slow, in too many parts, or breaks off."""
    length = request.header(b"content-length")
    declared = int(length) if length.isdigit() else 0
    if declared > DISCARD_BYTES:
        raise Problem(kind=Kind.PAYLOAD_TOO_LARGE)
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            parts, size = await _parts(receive, declared)
    except TimeoutError:
        raise Problem(kind=Kind.REQUEST_TIMEOUT) from None
    if size > _MAX_BODY_BYTES:
        raise Problem(kind=Kind.PAYLOAD_TOO_LARGE)
    return b"".join(parts)


async def _parts(receive: Receive, declared: int) -> tuple[list[bytes], int]:
    """The parts of the body, none where they are too many bytes, and their size."""
    parts: list[bytes] = []
    count, size, more = 0, 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            # The client went away, or what it sends is not framed as it says: granian tells both alike.
            raise Problem(kind=Kind.INCOMPLETE_BODY)
        part = message.get("body", b"")
        size += len(part)
        count += 1
        if size > _MAX_BODY_BYTES:
            parts.clear()
        elif part:
            parts.append(part)
        if count > PARTS_MAX:
            raise Problem(
                kind=Kind.PAYLOAD_TOO_LARGE, detail=f"Send the body in fewer than {PARTS_MAX} parts."
            )
        # granian tells the end of a body in a message of its own: nobody who has all of it need wait for that.
        more = message.get("more_body", False) and size != declared and size <= DISCARD_BYTES
    return parts, size


def replayed(body: bytes, receive: Receive) -> Receive:
    """What an application receives whose request's body was read already: the body, and later that the client left."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> dict[str, Any]:
        if pending:
            return pending.pop()
        while (message := await receive())["type"] == "http.request":
            pass  # the end of the body, which nobody waited for
        return message

    return received
