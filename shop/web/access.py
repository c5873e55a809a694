"""Who may call: the bearer key of a request, and the scope it needs."""

from shop.clients import Client, Directory
from shop.web.http import Request
from shop.web.problems import Kind, Problem

directory = Directory()


async def require(request: Request, scope: str | None, deadline: float | None = None) -> Client:
    """The client that sent the request. Raises `Problem` 401 without a valid key, 403 without the scope."""
    kind, _, key = request.header(b"authorization").partition(" ")
    if kind.lower() != "bearer" or not key.strip():
        raise Problem(kind=Kind.UNAUTHORIZED)
    client = await directory.find(key.strip(), deadline)
    if client is None:
        raise Problem(kind=Kind.UNAUTHORIZED)
    if scope is not None and scope not in client.scopes:
        raise Problem(kind=Kind.FORBIDDEN, detail=f"This key lacks the scope `{scope}`.")
    return client
