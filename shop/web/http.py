"""A request as the API's views see it, and the answer they give.

Django's own cost more to make than all the rest of accepting an order, for features the API does not have: cookies,
sessions, forms, uploads. Pages use Django's (`shop.web.asgi`).
"""

from dataclasses import dataclass, field
from typing import Any

from django.http import QueryDict


class Request:
    """One request to the API. `body`: all of it, once it was received."""

    __slots__ = ("_headers", "_query", "body", "method", "path")

    def __init__(self, scope: dict[str, Any]) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.body = b""
        self._query: bytes = scope["query_string"]
        self._headers: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            self._headers.setdefault(name, []).append(value.decode("latin-1"))

    def sent(self, name: bytes) -> list[str]:
        """Every value of a header as it was received. `name`: in lower case."""
        return self._headers.get(name, [])

    def header(self, name: bytes) -> str:
        """The value of a header, '' where it was not sent; several are joined as RFC 9110, 5.3 allows."""
        return ",".join(self.sent(name))

    def asks(self, word: str) -> bool:
        """Whether the query is this word alone."""
        return self._query == word.encode()

    @property
    def query(self) -> QueryDict:
        """The query parameters. Raises `TooManyFieldsSent`."""
        return QueryDict(self._query)


@dataclass(slots=True)
class Answer:
    """An answer of the API, a JSON document unless it says something else. Headers may be added until it is sent."""

    content: bytes = b""
    status_code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def __getitem__(self, header: str) -> str:
        return self.content_type if header == "Content-Type" else self.headers[header]
