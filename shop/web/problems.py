"""Everything that can go wrong for a client: the catalogue of problems, and their answers (RFC 9457)."""

from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import UNSET

from shop.web.http import Answer
from shop.web.schemas import FieldError, ProblemDocument

MEDIA_TYPE: Final = "application/problem+json"
#: Where each kind of problem has its page.
PAGES: Final = "/api/problems"
_NONE: Final[Mapping[str, str]] = MappingProxyType({})

_json = msgspec.json.Encoder()


class Kind(Enum):
    """A kind of problem: its HTTP status, its title, what the client should do, and headers it always has.

    The advice is the `detail` where a problem has nothing more exact to say. `Retry-After` is in seconds.
    """

    MALFORMED_JSON = (400, "Malformed JSON", "Send one JSON value (RFC 8259) in UTF-8.")
    INVALID_IDEMPOTENCY_KEY = (
        400,
        "Missing or invalid idempotency key",
        "Send one Idempotency-Key of 1 to 255 visible ASCII characters, a new one for each new request.",
    )
    INVALID_REQUEST = (400, "Invalid request", "Correct the query parameter that the detail names.")
    MALFORMED_REQUEST = (
        400,
        "Malformed request",
        "Send one Host, a percent-encoded address, and the body framed in one way (RFC 9112).",
    )
    INCOMPLETE_BODY = (
        400,
        "Incomplete body",
        "Send all of the body, in one way of framing: Content-Length or chunks.",
    )
    UNAUTHORIZED = (
        401,
        "No valid API key",
        "Send `Authorization: Bearer <api key>` with a key that has not been revoked.",
        {"WWW-Authenticate": "Bearer"},
    )
    FORBIDDEN = (403, "Not allowed", "Use an API key that has the scope which this operation asks for.")
    HTTPS_REQUIRED = (
        403,
        "HTTPS required",
        "Send it to the https address with a new API key, for this one has crossed the network in clear.",
    )
    NOT_FOUND = (404, "Not found", "Check the address: there is nothing here, or nothing that is yours.")
    METHOD_NOT_ALLOWED = (405, "Method not allowed", "Use one of the methods that the Allow header names.")
    NOT_CANCELLABLE = (
        409,
        "Order cannot be cancelled",
        "Leave the order as it is: it was rejected or failed and holds no stock.",
    )
    INSUFFICIENT_STOCK = (
        409,
        "Insufficient stock",
        "Take away less, or wait: units that are promised to orders cannot be taken.",
    )
    REQUEST_TIMEOUT = (
        408,
        "Request too slow",
        "Send the same request, with the same key, again: it did not arrive in time.",
    )
    PAYLOAD_TOO_LARGE = (413, "Body too large", "Send a smaller body, and a large order as several orders.")
    ADDRESS_TOO_LONG = (414, "Address too long", "Send an address of at most 8,192 bytes.")
    UNSUPPORTED_MEDIA_TYPE = (
        415,
        "Unsupported media type",
        "Send `Content-Type: application/json`; the only charset is UTF-8.",
    )
    INVALID_ORDER = (
        422,
        "Invalid order",
        "Correct the places that `errors` names; the idempotency key is still unused.",
    )
    INVALID_STOCK_MOVEMENT = (
        422,
        "Invalid stock movement",
        "Correct the places that `errors` names; the idempotency key is still unused.",
    )
    IDEMPOTENCY_KEY_REUSED = (
        422,
        "Idempotency key reused",
        "Send what is new under a new key; this key stands for something else, which is untouched.",
    )
    RATE_LIMITED = (
        429,
        "Too many requests",
        "Send the same request, with the same key, after Retry-After.",
        {"Retry-After": "1"},
    )
    HEAD_TOO_LARGE = (431, "Head too large", "Send at most 100 header fields, with at most 64 KiB in all.")
    INTERNAL_ERROR = (
        500,
        "Internal error",
        "Send the same request, with the same key, again; if it stays, report the X-Request-ID.",
    )
    QUEUE_FULL = (
        503,
        "No room for more orders",
        "Send the same request, with the same key, after Retry-After.",
        {"Retry-After": "5"},
    )
    INTAKE_PAUSED = (
        503,
        "No new orders at present",
        "The shop has paused: send the same request, with the same key, after Retry-After.",
        {"Retry-After": "10"},
    )
    UNAVAILABLE = (
        503,
        "Temporarily unavailable",
        "Send the same request, with the same key, after Retry-After.",
        {"Retry-After": "2"},
    )

    def __init__(self, status: int, title: str, advice: str, headers: Mapping[str, str] = _NONE) -> None:
        self.status = status
        self.title = title
        self.advice = advice
        self.headers = headers

    @property
    def slug(self) -> str:
        """The `type` in the answer, a relative reference: `malformed-json`."""
        return self.name.lower().replace("_", "-")

    @property
    def page(self) -> str:
        """The address of the page about it, which every answer links to (RFC 8288)."""
        return f"{PAGES}/{self.slug}"


class Problem(Exception):
    """The request cannot be served; `response` makes the answer. Headers here win over those of the kind."""

    def __init__(
        self,
        *,
        kind: Kind,
        detail: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] = _NONE,
    ) -> None:
        self.kind = kind
        self.detail = kind.advice if detail is None else detail
        self.errors = errors
        self.headers = {"Link": f'<{kind.page}>; rel="help"', **kind.headers, **headers}
        super().__init__(f"{kind.slug}: {self.detail}")


def response(problem: Problem) -> Answer:
    """The answer to a request that met a problem; equal problems give equal bytes."""
    document = ProblemDocument(
        type=problem.kind.slug,
        title=problem.kind.title,
        status=problem.kind.status,
        detail=problem.detail,
        errors=list(problem.errors) or UNSET,
    )
    return Answer(
        _json.encode(document), problem.kind.status, content_type=MEDIA_TYPE, headers=problem.headers
    )


def page_meant(path: str) -> str | None:
    """The page that a `type` leads to which was resolved against the address of the request (RFC 9457, 3.1.1)."""
    return _PAGES.get(path.rsplit("/", 1)[-1])  # `*` has no "/"


_PAGES: Final = {kind.slug: kind.page for kind in Kind}


def require_method(method: str | None, *allowed: str) -> None:
    """Raise `Problem`, with an Allow header (RFC 9110, 15.5.6), unless the method is an allowed one."""
    if method not in allowed:
        raise Problem(kind=Kind.METHOD_NOT_ALLOWED, headers={"Allow": ", ".join(allowed)})
