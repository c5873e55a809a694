"""A request as the API's views see it, and the answer they give.

Django's own cost more to make than all the rest of accepting an order, for features the API does not have: cookies,
sessions, forms, uploads. Pages use Django's (`shop.web.django_pages`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from django.http import QueryDict, parse_cookie

_NONE: Final[Mapping[bytes, list[str]]] = {}


def without_escapes(cookies: str) -> str:
    """A Cookie header without backslashes, which no cookie may hold (RFC 6265, 4.1.1).

    Python before 3.11.10 undoes escapes in a time by the square of their number (CVE-2024-7592): 64 KB of them would keep
    a process busy for 20 seconds.
    """
    return cookies.replace("\\", "")


@dataclass(slots=True, kw_only=True)
class Request:
    """One request. `path`: decoded; `headers`: every value of each, by name in lower case; `peer`: who is connected.

    `fault`: why it was not received to its end. `is_last`: whether its client wants no answer after this one.
    `received_at`: when all of it had arrived (loop time); 0 where that is not known.
    `kept_bytes`: what its connection counts of it. `has_left`: whether its client sends no more, and may be gone.
    """

    method: str
    path: str
    query_string: bytes = b""
    headers: Mapping[bytes, list[str]] = field(default_factory=lambda: _NONE)
    body: bytes = b""
    peer: tuple[str, int] | None = None
    fault: Exception | None = None
    is_last: bool = False
    received_at: float = 0.0
    kept_bytes: int = 0
    has_left: bool = False
    _release: Callable[[], None] | None = None

    def when_left(self, release: Callable[[], None]) -> None:
        """Have this called once its client has left, at once if it has. It must only end a wait, and undo nothing."""
        self._release = release
        if self.has_left:
            release()

    def leave(self) -> None:
        """Its client has left, or may have."""
        if not self.has_left:
            self.has_left = True
            if self._release is not None:
                self._release()

    def sent(self, name: bytes) -> list[str]:
        """Every value of a header as it was received. `name`: in lower case."""
        return self.headers.get(name) or []

    def header(self, name: bytes) -> str:
        """The value of a header, '' where it was not sent; several are joined as RFC 9110, 5.3 allows."""
        return ",".join(self.headers.get(name, ()))

    def cookie(self, name: str) -> str:
        """The value of a cookie, '' where it was not sent."""
        return parse_cookie(without_escapes(self.header(b"cookie"))).get(name, "")

    def asks(self, word: str) -> bool:
        """Whether the query is this word alone."""
        return self.query_string == word.encode()

    @property
    def query(self) -> QueryDict:
        """The query parameters. Raises `TooManyFieldsSent`."""
        return QueryDict(self.query_string)


@dataclass(slots=True)
class Answer:
    """An answer, a JSON document unless it says something else. Headers may be added until it is sent."""

    content: bytes = b""
    status_code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    cookies: Sequence[str] = ()

    def __getitem__(self, header: str) -> str:
        return self.content_type if header == "Content-Type" else self.headers[header]

    def fields(self) -> list[tuple[str, str]]:
        """The fields of its head, but for those that say how its body is framed."""
        fields = [*self.headers.items()]
        if self.cookies:
            fields += [("set-cookie", cookie) for cookie in self.cookies]
        if self.content:
            fields.append(("content-type", self.content_type))
        return fields
