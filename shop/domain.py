"""What is true of an order, whatever stores it: its parts, its states, and how it may move between them."""

import re
from enum import StrEnum
from typing import Final

import msgspec

SKU_MAX_LENGTH: Final = 64
QUANTITY_MAX: Final = 1_000_000
#: Of lines that repeat a SKU the sum counts: more than all lines of an order can have.
LINE_UNITS_MAX: Final = 10_000 * QUANTITY_MAX
TEXT_MAX_LENGTH: Final = 255


#: What shows nothing: the categories Cc, Cf, Cs, Co, Zl, Zp and Zs of Unicode 15 but U+0020, and what is
#: unassigned next to them. Written out, so that no other version of Unicode can change what a SKU is.
_INVISIBLE: Final = (
    r"\u0000-\u001F\u007F-\u00A0\u00AD\u0600-\u0605\u061C\u06DD\u070F\u0890\u0891\u08E2\u1680\u180E"
    r"\u2000-\u200F\u2028-\u202F\u205F-\u206F\u3000\uD7FC-\uF8FF\uFEFF\uFFF0-\uFFFB\uFFFE\uFFFF"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U00040000-\U000e00ff\U000e01f0-\U0010ffff"
)
SKU_PATTERN: Final = f"^[^{_INVISIBLE} ]+(?: +[^{_INVISIBLE} ]+)*$"
#: No C0, DEL or C1 control character.
TEXT_PATTERN: Final = r"^[^\u0000-\u001F\u007F-\u009F]+$"

#: The client that owns the orders of all who buy on the shop's pages.
STOREFRONT: Final = "storefront"
#: Clients that are the shop itself. No API key is made for one: it would open what the shop does for others. The ledger's
#: `staff:<user>` needs no place here, because no client's name holds a colon.
OWN_CLIENTS: Final = frozenset({STOREFRONT})

_SKU = re.compile(SKU_PATTERN)
_TEXT = re.compile(TEXT_PATTERN)
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_sku(text: str) -> bool:
    """Whether the text may be a SKU: 1 to 64 printable characters, blanks only between others."""
    return len(text) <= SKU_MAX_LENGTH and _SKU.fullmatch(text) is not None


def is_text(text: str) -> bool:
    """Whether the text may be a customer, a reference or a reason: 1 to 255 characters, none a control."""
    return len(text) <= TEXT_MAX_LENGTH and _TEXT.fullmatch(text) is not None


class Status(StrEnum):
    """Where an order is. All but `queued` are final, except that a confirmed order can be cancelled."""

    QUEUED = "queued"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ReasonCode(StrEnum):
    """Why an order was rejected or failed."""

    INSUFFICIENT_STOCK = "insufficient_stock"
    UNKNOWN_SKU = "unknown_sku"
    TOO_MANY_ATTEMPTS = "too_many_attempts"


class Line(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """So many units of one SKU. On the wire inside the system: `[sku, quantity]`."""

    sku: str
    quantity: int


class LineShortage(msgspec.Struct, frozen=True):
    """A line that could not be had: how many units were asked for, and how many were free to sell."""

    sku: str
    requested: int
    available: int


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an order ended without being confirmed; `lines` names what was short or unknown."""

    code: ReasonCode
    lines: tuple[LineShortage, ...] = ()
    detail: str = ""


class Order(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An accepted order as it travels through queue, worker and stores.

    `id`: UUID text derived from client and idempotency key. `lines`: each SKU once, repeated ones summed, in
    the order the client first named them. `fingerprint`: hex digest of what the order means.
    `accepted_at_ms`: Unix time. `trace`: that of the request which placed it, where it is traced (`traceparent`, W3C Trace
    Context).
    """

    id: str
    client: str
    lines: tuple[Line, ...]
    fingerprint: str
    accepted_at_ms: int
    customer: str | None = None
    reference: str | None = None
    trace: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def skus(self) -> list[str]:
        """The SKUs it names, each once."""
        return [line.sku for line in self.lines]

    @property
    def trace_id(self) -> str:
        """The second part of its trace; '' where it has none, or what is none."""
        return self.trace.partition("-")[2].partition("-")[0] if self.trace else ""

    def is_sound(self) -> bool:
        """Whether it is what the web tier accepts; a message from elsewhere may be anything."""
        texts = [text for text in (self.customer, self.reference) if text is not None]
        return (
            _UUID.fullmatch(self.id) is not None
            and len(set(self.skus)) == len(self.lines) > 0
            and all(is_sku(line.sku) and 0 < line.quantity <= LINE_UNITS_MAX for line in self.lines)
            and all(map(is_text, [self.client, *texts]))
        )


def summed(lines: list[Line]) -> tuple[Line, ...]:
    """One line per SKU: repeated SKUs count as their sum, at the place where they were first named."""
    if len({line.sku for line in lines}) == len(lines):
        return tuple(lines)
    totals: dict[str, int] = {}
    for line in lines:
        totals[line.sku] = totals.get(line.sku, 0) + line.quantity
    return tuple(Line(sku, quantity) for sku, quantity in totals.items())
