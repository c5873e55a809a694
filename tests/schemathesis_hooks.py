"""What schemathesis must be told of values that are ours, for good data (SCHEMATHESIS_MODE=positive) and for bad."""

import itertools
import os
from typing import Any

import schemathesis
from hypothesis import strategies as st

from shop.domain import SKU_PATTERN, is_sku
from shop.web.parsing import cursor_after

GOOD = os.environ["SCHEMATHESIS_MODE"] == "positive"
#: What exists already, so that more than 404 is seen.
SKU, ORDER_ID = os.environ["SCHEMATHESIS_SKU"], os.environ["SCHEMATHESIS_ORDER_ID"]

words = st.text(st.characters(categories=["L", "M", "N", "P", "S"]).filter(is_sku), min_size=1, max_size=20)
skus = st.lists(words, min_size=1, max_size=3).map(" ".join)
schemathesis.openapi.format("sku", st.just(SKU) | skus)
schemathesis.openapi.format("product-cursor", skus.map(cursor_after))
schemathesis.openapi.format("uuid", st.just(ORDER_ID) | st.uuids().map(str))

#: Less than what a SKU may not be. Drawing from the published pattern, most of Unicode, takes minutes.
BAD_FOR_SURE = r"^[^\u0000-\u0020\u007F]+(?: +[^\u0000-\u0020\u007F]+)*$"

numbers = itertools.count()


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: Any) -> None:
    """Give SKUs a format to draw good ones from, and a quicker pattern to break."""
    if isinstance(raw_schema, dict):
        if raw_schema.get("pattern") == SKU_PATTERN:
            del raw_schema["pattern"]
            raw_schema |= {"format": "sku"} | ({} if GOOD else {"pattern": BAD_FOR_SURE})
        for member in raw_schema.values():
            before_load_schema(context, member)
    elif isinstance(raw_schema, list):
        for member in raw_schema:
            before_load_schema(context, member)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make each good idempotency key a new one: a key used for two orders is refused, and rightly."""
    key = (case.headers or {}).get("Idempotency-Key")
    if GOOD and key:
        number = next(numbers)
        case.headers["Idempotency-Key"] = (
            f'"{number}{key[1:]}' if key.startswith('"') else f"{number}{key}"[:255]
        )
