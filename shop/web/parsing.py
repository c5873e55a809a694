"""From bytes and header text to valid values. Whatever is wrong is a `Problem` that says where and why."""

import base64
import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from shop.domain import TEXT_MAX_LENGTH, is_sku, is_text
from shop.web import json_body
from shop.web.faults import order_faults, stock_movement_faults
from shop.web.problems import Kind, Problem
from shop.web.schemas import FieldError, OrderItem, OrderRequest, StockMovementRequest

PAGE_LIMIT_DEFAULT: Final = 100
PAGE_LIMIT_MAX: Final = 500
WAIT_MAX_SECONDS: Final = 30
IDEMPOTENCY_KEY_MAX_LENGTH: Final = 255
#: Characters of a header that is looked into: the longest that has a meaning is an idempotency key with all of it escaped.
HEADER_MAX_LENGTH: Final = 1024
#: More faults than this in one body are not looked for.
FAULTS_MAX: Final = 100

# Each character has one place in these patterns, so that reading takes a time in proportion to the text. Where a blank
# could belong to either of two neighbours, forty blanks would have a trillion readings (`tests/test_linear_time.py`).
_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - a token is a word in RFC 9110, 5.6.2
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_PARAMETER: Final = rf";[ \t]*(?:({_TOKEN})=({_TOKEN}|{_QUOTED})[ \t]*)?"
_JSON_TYPE = re.compile(rf"[ \t]*application/json[ \t]*((?:{_PARAMETER})*)", re.IGNORECASE)
_PARAMETERS = re.compile(_PARAMETER)
#: Quoted text, to the end of all text where no quote ends it: a search would try again at each quote within it.
_QUOTED_OR_OPEN: Final = r'"(?s:[^"\\]|\\.)*(?:"|\\?\Z)'
_QUOTATION = re.compile(_QUOTED_OR_OPEN)
_LIST_ELEMENT = re.compile(rf'(?:[^,"]|{_QUOTED_OR_OPEN})+')
_SECONDS = re.compile(r'("?)([0-9]+)\1')
_BARE_KEY = re.compile(r"[\x21\x23-\x2B\x2D-\x7E]+")
_QUOTED_KEY = re.compile(r'"((?:[\x21\x23-\x5B\x5D-\x7E]|\\["\\])+)"')
_ESCAPED = re.compile(r"\\(.)")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LIMIT = re.compile(r"[1-9][0-9]{0,2}")

_order_decoder = msgspec.json.Decoder(OrderRequest)


# --- bodies ---------------------------------------------------------------------------------------


def parse_order(body: bytes, content_type: str, *, max_lines: int) -> OrderRequest:
    """The order in a request's body.

    Raises `Problem`: unsupported-media-type, malformed-json, or invalid-order with every fault.
    """
    _require_json(content_type)
    try:
        order = _order_decoder.decode(body)
    except (ValueError, RecursionError):
        return _examined_order(body, max_lines)
    return order if _plainly_valid(order, body, max_lines) else _examined_order(body, max_lines)


def parse_stock_movement(body: bytes, content_type: str) -> StockMovementRequest:
    """The stock movement in a request's body.

    Raises `Problem`: unsupported-media-type, malformed-json, or invalid-stock-movement with every fault.
    """
    _require_json(content_type)
    document: Any = json_body.read(body, max_lines=1, kind=Kind.INVALID_STOCK_MOVEMENT)
    _refuse(Kind.INVALID_STOCK_MOVEMENT, stock_movement_faults(document))
    given = dict(document)
    return StockMovementRequest(delta=int(given["delta"]), reason=given["reason"])


def _plainly_valid(order: OrderRequest, body: bytes, max_lines: int) -> bool:
    """The rules that the decoder does not know. False also means "look closer".

    A body has a colon for each member, and of a member that is given twice the decoder keeps only one. So
    where there are no more colons than members, nothing was given twice.
    """
    texts = [text for text in (order.customer, order.reference) if text is not None]
    return (
        len(order.items) <= max_lines
        and body.count(b":") == 1 + 2 * len(order.items) + len(texts)
        and all(is_sku(item.sku) for item in order.items)
        and all(is_text(text) for text in texts)
    )


def _examined_order(body: bytes, max_lines: int) -> OrderRequest:
    """The slow way to an order, which names every fault."""
    document: Any = json_body.read(body, max_lines=max_lines, kind=Kind.INVALID_ORDER)
    _refuse(Kind.INVALID_ORDER, order_faults(document, max_lines=max_lines))
    given = dict(document)
    items = map(dict, given.pop("items"))
    return OrderRequest(items=[OrderItem(item["sku"], int(item["quantity"])) for item in items], **given)


def _refuse(kind: Kind, faults: Iterator[FieldError]) -> None:
    """Raise `Problem` where there are faults. It lists the first `FAULTS_MAX`; others are not looked for."""
    found = list(islice(faults, FAULTS_MAX))
    if not found:
        return
    count = f"{len(found)}" if next(faults, None) is None else f"more than {FAULTS_MAX}"
    listed = "See `errors`." if count.isdigit() else "`errors` lists the first of them."
    raise Problem(kind=kind, detail=f"Faults in the body: {count}. {listed}", errors=found)


def _require_json(content_type: str) -> None:
    """RFC 8259 knows no parameters: others than charset are ignored, and a charset must be UTF-8."""
    if content_type == "application/json":
        return
    media_type = _JSON_TYPE.fullmatch(content_type) if len(content_type) <= HEADER_MAX_LENGTH else None
    if media_type is None:
        raise Problem(kind=Kind.UNSUPPORTED_MEDIA_TYPE)
    for name, value in _PARAMETERS.findall(media_type[1]):
        if name.lower() == "charset" and value.strip('"').lower() != "utf-8":
            raise Problem(kind=Kind.UNSUPPORTED_MEDIA_TYPE)


# --- headers and query parameters -----------------------------------------------------------------


def parse_idempotency_key(values: Sequence[str]) -> str:
    r"""The key in the values of the Idempotency-Key header fields, quoted (a string of RFC 9651) or bare.

    `"k"` and `k` are the same key. A quoted key may hold commas, `\"` and `\\`. Parameters after it
    are refused, as draft-ietf-httpapi-idempotency-key-header defines none.

    Raises `Problem` invalid-idempotency-key, whose detail says which rule was broken.
    """
    if not values:
        raise _bad_key("is missing")
    if len(values) > 1:
        raise _bad_key("was sent twice")
    text = values[0].strip(" \t")
    if text in {"", '""'}:
        raise _bad_key("is empty")
    if len(text) > HEADER_MAX_LENGTH:
        raise _bad_key(f"is too long: {len(text)} characters")
    if quoted := _QUOTED_KEY.fullmatch(text):
        key = _ESCAPED.sub(r"\1", quoted[1])
    elif _BARE_KEY.fullmatch(text):
        key = text
    else:
        raise _bad_key(_fault_of_key(text))
    if len(key) > IDEMPOTENCY_KEY_MAX_LENGTH:
        raise _bad_key(f"is too long: {len(key)} characters, and {IDEMPOTENCY_KEY_MAX_LENGTH} may be")
    return key


def _fault_of_key(text: str) -> str:
    """Proxies and servers fold two header fields into one with a comma, as RFC 9110, 5.3 allows."""
    if "," in _QUOTATION.sub("", text):
        return "was sent twice, or holds a comma and is not quoted"
    return "has bad characters: only visible ASCII may be, and a double quote only in a quoted key, escaped"


def _bad_key(fault: str) -> Problem:
    return Problem(kind=Kind.INVALID_IDEMPOTENCY_KEY, detail=f"The Idempotency-Key header {fault}.")


def parse_prefer_wait(values: Sequence[str]) -> int | None:
    """How many seconds the client would wait (RFC 7240), at most 30; None where it does not say so clearly.

    Of several waits the first one counts, also when it is malformed.
    """
    text = ",".join(values)
    for preference in _LIST_ELEMENT.findall(text) if len(text) <= HEADER_MAX_LENGTH else ():
        name, _, value = preference.split(";")[0].partition("=")
        if name.strip(" \t").lower() == "wait":
            seconds = _SECONDS.fullmatch(value.strip(" \t"))
            return min(int(seconds[2].lstrip("0")[:3] or 0), WAIT_MAX_SECONDS) if seconds else None
    return None


def parse_limit(value: str | None) -> int:
    """How many products a page shall have. Raises `Problem` invalid-request."""
    if value is None:
        return PAGE_LIMIT_DEFAULT
    if _LIMIT.fullmatch(value) is None or int(value) > PAGE_LIMIT_MAX:
        raise _bad_parameter(f"limit must be an integer from 1 to {PAGE_LIMIT_MAX}.")
    return int(value)


def parse_search(value: str | None) -> str:
    """What to search products for; empty where all are wanted. Raises `Problem` invalid-request."""
    if value and not is_text(value):
        raise _bad_parameter(f"q must have at most {TEXT_MAX_LENGTH} characters and no control characters.")
    return value or ""


def cursor_after(sku: str) -> str:
    """The cursor of the page that begins after this SKU. What it is made of is no business of clients."""
    return base64.urlsafe_b64encode(sku.encode()).decode().rstrip("=")


def parse_cursor(value: str | None) -> str | None:
    """The SKU after which the page begins; None for the first page. Raises `Problem` invalid-request."""
    if value is None:
        return None
    try:
        sku = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        sku = ""
    if not is_sku(sku) or cursor_after(sku) != value:
        raise _bad_parameter("cursor must be taken from the `next` of a page.")
    return sku


def _bad_parameter(detail: str) -> Problem:
    return Problem(kind=Kind.INVALID_REQUEST, detail=detail)


def request_id(value: str | None) -> str:
    """The caller's id for its request if it is sane (1 to 128 of `A-Z a-z 0-9 . _ : -`), else a new one."""
    return value if value and _REQUEST_ID.fullmatch(value) else f"{random.getrandbits(128):032x}"
