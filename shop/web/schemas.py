"""What goes in and out of the API. The types that validate are those the OpenAPI document is made from.

Docstrings and descriptions in here are published: they are the words of `/api/openapi.json` and `/api/docs`.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shop.domain import (
    QUANTITY_MAX,
    SKU_MAX_LENGTH,
    SKU_PATTERN,
    TEXT_MAX_LENGTH,
    TEXT_PATTERN,
    Reason,
    Status,
)

STOCK_DELTA_MAX: Final = 1_000_000_000

# Patterns that Python, ECMA-262 (with the `u` flag, as JSON Schema has it) and Rust read alike. msgspec does
# not apply them, as Python's `$` would allow a line feed at the end; `shop.web.faults` does, by `fullmatch`.

Sku = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=SKU_MAX_LENGTH,
        description="Case-sensitive, compared code point by code point. Printable: no control, format or "
        "private-use characters, and no separators but blanks (U+0020) between other characters.",
        extra_json_schema={"pattern": SKU_PATTERN},
    ),
]
Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX, description="Units.")]
Text = Annotated[
    str,
    Meta(min_length=1, max_length=TEXT_MAX_LENGTH, extra_json_schema={"pattern": TEXT_PATTERN}),
]
Moment = Annotated[datetime, Meta(tz=True, description="UTC, as RFC 3339 with `Z`.")]
Price = Annotated[
    str,
    Meta(pattern=r"^[0-9]+\.[0-9]{2,4}$", description="A decimal number as a string, with 2 to 4 places."),
]


Url = Annotated[str, Meta(extra_json_schema={"format": "uri-reference"})]


class OrderItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """So many units of one SKU."""

    sku: Sku
    quantity: Quantity


class OrderRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order as a client places it. Items that repeat a SKU count as their sum."""

    items: Annotated[list[OrderItem], Meta(min_length=1)]
    customer: Annotated[
        Text | None, Meta(description="Whom the order is for, in the client's own words.")
    ] = None
    reference: Annotated[Text | None, Meta(description="The client's own name for the order.")] = None


class OrderLine(msgspec.Struct, frozen=True, gc=False):
    """So many units of one SKU: the sum of the items that name it."""

    sku: str
    quantity: Annotated[int, Meta(ge=1)]


class OrderAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An order and what became of it. `reason` is there when it was rejected or failed."""

    id: Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
    status: Status
    items: Annotated[list[OrderLine], Meta(min_length=1, description="Each SKU once.")]
    customer: str | None
    reference: str | None
    created_at: Moment
    updated_at: Moment
    href: Annotated[Url, Meta(description="Where to ask for the order.")]
    reason: Reason | UnsetType = UNSET


class ProductAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A product on sale."""

    sku: str
    name: str
    price: Price
    available: Annotated[int, Meta(description="Units free to sell at the moment of the answer.")]


class ProductPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some products in the order of their SKUs."""

    items: list[ProductAnswer]
    next: Annotated[Url | None, Meta(description="The URL of the next page; null on the last one.")]


class StockMovementRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of a product's stock by a difference."""

    delta: Annotated[
        int,
        Meta(
            ge=-STOCK_DELTA_MAX,
            le=STOCK_DELTA_MAX,
            description="Units that came (above zero) or went (below zero).",
            extra_json_schema={"not": {"const": 0}},
        ),
    ]
    reason: Annotated[Text, Meta(description="Why, for the audit.")]


class StockMovementAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A change of stock as it stands in the books."""

    id: str
    sku: str
    delta: int
    reason: str
    created_at: Moment
    available: Annotated[int, Meta(description="Units free to sell after the change.")] | UnsetType = UNSET


class FieldError(msgspec.Struct, frozen=True):
    """One bad place in a request's body."""

    pointer: Annotated[str, Meta(description="RFC 6901; the empty string is the whole body.")]
    detail: Annotated[str, Meta(description="What is wrong there.")]


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong (RFC 9457)."""

    type: Annotated[
        str,
        Meta(
            description="The problem's slug, a relative reference; decide by this.",
            extra_json_schema={"format": "uri-reference"},
        ),
    ]
    title: Annotated[str, Meta(description="The same words for each problem of this type.")]
    status: Annotated[int, Meta(ge=400, le=599, description="The HTTP status once more.")]
    detail: Annotated[str, Meta(description="What happened this time, for people.")]
    errors: Annotated[list[FieldError], Meta(description="One for each bad field.")] | UnsetType = UNSET


class Health(msgspec.Struct, frozen=True):
    """Said by whatever is well."""

    status: Literal["ok"] = "ok"


def price_text(price: Decimal) -> str:
    """A price as the API shows it, with 2 to 4 places: 2.5 is "2.50", 0.0010 is "0.001"."""
    exact = price.quantize(Decimal("0.0001"))
    cents = exact.quantize(Decimal("0.01"))
    return f"{cents if cents == exact else exact.normalize():f}"
