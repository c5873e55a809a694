"""What the API reads and writes beside bodies: parameters of requests, and headers of answers."""

from typing import Any, Final

import msgspec
from msgspec import field

from shop.domain import TEXT_MAX_LENGTH, TEXT_PATTERN
from shop.web import examples
from shop.web.parsing import (
    IDEMPOTENCY_KEY_MAX_LENGTH,
    PAGE_LIMIT_DEFAULT,
    PAGE_LIMIT_MAX,
    WAIT_MAX_SECONDS,
    cursor_after,
)
from shop.web.problems import Kind
from shop.web.schemas import Sku

Json = dict[str, Any]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a request beside its body. `place` is `header`, `path` or `query`."""

    name: str
    place: str
    description: str
    type: Any = str
    limits: Json = {}
    example: Any = None
    required: bool = False


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A header of an answer."""

    description: str
    example: Any
    schema: Json = field(default_factory=lambda: {"type": "string"})


HEADERS: Final = {
    "X-Request-ID": Header(
        description="The request's `X-Request-ID` if it sent a sane one (1 to 128 of `A-Z a-z 0-9 . _ : -`), "
        "else a new one. It is in the logs too.",
        example="7f2c1d",
    ),
    "Location": Header(
        description="Where to ask for the order.",
        schema={"type": "string", "format": "uri-reference"},
        example=examples.QUEUED.href,
    ),
    "Retry-After": Header(
        description="Seconds to wait before the next request.",
        schema={"type": "integer", "minimum": 0},
        example=1,
    ),
    "Idempotency-Replayed": Header(
        description="There if the key was known, so that nothing new was done.",
        schema={"type": "string", "enum": ["true"]},
        example="true",
    ),
    "ETag": Header(description="Of a final order; for `If-None-Match`.", example=examples.ETAG),
    "Preference-Applied": Header(description="The wait that was granted.", example="wait=10"),
    "Link": Header(
        description="The page about the problem's type, with the relation `help`.",
        example=f'<{Kind.NOT_FOUND.page}>; rel="help"',
    ),
    "WWW-Authenticate": Header(description="How to authenticate (RFC 6750).", example="Bearer"),
}

#: Bare, or quoted with escapes; lengths count the key's characters without quotes and escapes.
KEY_PATTERN: Final = (
    rf"^(?:[!#-+\--~]{{1,{IDEMPOTENCY_KEY_MAX_LENGTH}}}"
    rf'|"(?:[!#-\[\]-~]|\\["\\]){{1,{IDEMPOTENCY_KEY_MAX_LENGTH}}}")$'
)

IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    place="header",
    required=True,
    description=f"1 to {IDEMPOTENCY_KEY_MAX_LENGTH} visible ASCII characters, bare or quoted: "
    '`k` and `"k"` are the same key. A bare key holds no comma and no double quote; a quoted one writes a '
    'double quote as `\\"` and a backslash as `\\\\`, and nothing may follow it.',
    limits={"pattern": KEY_PATTERN},
    example="5f0c7b52-0001",
)
ORDER_ID = Parameter(
    name="id",
    place="path",
    required=True,
    description="The order's id.",
    limits={"format": "uuid"},
    example=examples.ORDER_ID,
)
SKU = Parameter(
    name="sku",
    place="path",
    required=True,
    description="The product's SKU, percent-encoded: a slash in it is `%2F`.",
    type=Sku,
    example=examples.PRODUCT.sku,
)
PREFER = Parameter(
    name="Prefer",
    place="header",
    description="`wait=N` (RFC 7240) holds the answer until the order is no longer queued, for at most N "
    f"seconds, N up to {WAIT_MAX_SECONDS}. A larger wait is cut, and whatever else it says is ignored.",
    example="wait=10",
)
IF_NONE_MATCH = Parameter(
    name="If-None-Match",
    place="header",
    description="The `ETag` of an earlier answer: 304 if the order is still the same.",
    example=examples.ETAG,
)
SEARCH = Parameter(
    name="q",
    place="query",
    description="Only products that have this in their SKU or name.",
    limits={"maxLength": TEXT_MAX_LENGTH, "pattern": TEXT_PATTERN.replace("+$", "*$")},
    example="Fjord",
)
LIMIT = Parameter(
    name="limit",
    place="query",
    description="How many products a page has at most.",
    type=int,
    limits={"minimum": 1, "maximum": PAGE_LIMIT_MAX, "default": PAGE_LIMIT_DEFAULT},
    example=PAGE_LIMIT_DEFAULT,
)
CURSOR = Parameter(
    name="cursor",
    place="query",
    description="Where the page begins. Take it from `next`, and do not make one up.",
    limits={"format": "product-cursor", "pattern": "^[A-Za-z0-9_-]+$"},
    example=cursor_after(examples.PRODUCT.sku),
)
