"""What schemathesis must be told of values that are ours."""

import os
import uuid
from typing import Any

import schemathesis
from hypothesis import strategies as st

from shop.domain import SKU_PATTERN
from shop.web.parsing import cursor_after

schemathesis.openapi.format(
    "product-cursor", st.from_regex("[A-Za-z0-9]{1,20}", fullmatch=True).map(cursor_after)
)

#: Drawing from the whole of Unicode less what is invisible takes minutes. Good data draw from a part of it; bad data are bad
#: in other ways, and `tests/test_verdicts.py` holds the pattern itself against the parser.
DRAWN_FROM = (
    "^[A-Za-z0-9]([A-Za-z0-9 ]{0,20}[A-Za-z0-9])?$" if os.environ["SCHEMATHESIS_MODE"] == "positive" else None
)


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: Any) -> None:
    """Put the part in the place of the whole."""
    if isinstance(raw_schema, dict):
        if raw_schema.get("pattern") == SKU_PATTERN:
            raw_schema.pop("pattern")
            if DRAWN_FROM:
                raw_schema["pattern"] = DRAWN_FROM
        for member in list(raw_schema.values()):
            before_load_schema(context, member)
    elif isinstance(raw_schema, list):
        for member in raw_schema:
            before_load_schema(context, member)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Give each good request a key of its own: a key used for two orders is refused, and rightly."""
    if DRAWN_FROM and "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = uuid.uuid4().hex
