"""Who may call: the bearer key of a request, and the scope it needs."""

from shop.clients import Client, Directory
from shop.web.http import Request
from shop.web.problems import Kind, Problem

directory = Directory()


async def require(request: Request, scope: str | None, deadline: float | None = None) -> Client:
    """The client that sent the request. Raises `Problem` 401 without a valid key, 403 without the scope."""
    key = bearer_key(request.header(b"authorization"))
    if not key:
        raise Problem(kind=Kind.UNAUTHORIZED)
    client = await directory.find(key, deadline)
    if client is None:
        raise Problem(kind=Kind.UNAUTHORIZED)
    if scope is not None and scope not in client.scopes:
        raise Problem(kind=Kind.FORBIDDEN, detail=f"This key lacks the scope `{scope}`.")
    return client


def bearer_key(header: str) -> str:
    """The key in an Authorization header (RFC 6750, 2.1), '' where there is none."""
    kind, _, key = header.partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""
