"""Who may call: the bearer key of a request, and the scope it needs."""

from django.http import HttpRequest

from shop.clients import Client, Directory
from shop.web.problems import Kind, Problem

directory = Directory()


async def require(request: HttpRequest, scope: str | None) -> Client:
    """The client that sent the request. Raises `Problem` 401 without a valid key, 403 without the scope."""
    kind, _, key = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not key.strip():
        raise Problem(kind=Kind.UNAUTHORIZED)
    client = await directory.find(key.strip())
    if client is None:
        raise Problem(kind=Kind.UNAUTHORIZED)
    if scope is not None and scope not in client.scopes:
        raise Problem(kind=Kind.FORBIDDEN, detail=f"This key lacks the scope `{scope}`.")
    return client


def sent(request: HttpRequest, name: str) -> list[str]:
    """Every value of a header as it was received; Django would join them with commas."""
    wanted = name.lower().encode()
    return [value.decode("latin-1") for key, value in request.scope["headers"] if key == wanted]  # type: ignore[attr-defined]
