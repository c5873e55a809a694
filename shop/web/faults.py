"""What is wrong with a body, place by place: the slow and talkative twin of the decoder.

It looks into a document (`shop.web.json_body`) only as far as its caller asks for faults.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from shop.domain import QUANTITY_MAX, SKU_MAX_LENGTH, TEXT_MAX_LENGTH, is_sku, is_text
from shop.web.json_body import JsonObject
from shop.web.schemas import STOCK_DELTA_MAX, FieldError

Faults = Iterator[FieldError]
Check = Callable[[Any, str], Faults]


def order_faults(document: object, *, max_lines: int) -> Faults:
    """Every fault of what should be an `OrderRequest`. There are none if and only if it is one."""
    members: dict[str, Check] = {
        "items": partial(_item_list_faults, max_lines=max_lines),
        "customer": _optional_text_faults,
        "reference": _optional_text_faults,
    }
    return _object_faults(document, "", members, required=("items",))


def stock_movement_faults(document: object) -> Faults:
    """Every fault of what should be a `StockMovementRequest`."""
    members: dict[str, Check] = {"delta": _delta_faults, "reason": _text_faults}
    return _object_faults(document, "", members, required=("delta", "reason"))


def _object_faults(
    value: object, pointer: str, members: Mapping[str, Check], required: Iterable[str]
) -> Faults:
    if not isinstance(value, tuple):
        yield FieldError(pointer, f"must be an object, not {_type_name(value)}")
        return
    given: dict[str, Any] = dict(value)
    for name in required:
        if name not in given:
            yield FieldError(f"{pointer}/{name}", "is missing")
    for name in _repeated(value) if len(given) < len(value) else ():
        yield FieldError(f"{pointer}/{_escaped(name)}", "is given more than once")
    for name, member in given.items():
        check = members.get(name)
        if check is None:
            yield FieldError(f"{pointer}/{_escaped(name)}", f"is unknown; known are {', '.join(members)}")
        else:
            yield from check(member, f"{pointer}/{name}")


def _repeated(members: JsonObject) -> list[str]:
    return [name for name, count in Counter(name for name, _ in members).items() if count > 1]


def _item_list_faults(value: object, pointer: str, *, max_lines: int) -> Faults:
    if not isinstance(value, list):
        yield FieldError(pointer, f"must be an array of items, not {_type_name(value)}")
        return
    if not 1 <= len(value) <= max_lines:
        yield FieldError(pointer, f"must hold 1 to {max_lines} items, not {len(value)}")
        return
    members: dict[str, Check] = {"sku": _sku_faults, "quantity": _quantity_faults}
    for position, item in enumerate(value):
        yield from _object_faults(item, f"{pointer}/{position}", members, required=("sku", "quantity"))


def _string_faults(value: object, pointer: str, *, most: int) -> Faults:
    if not isinstance(value, str):
        yield FieldError(pointer, f"must be a string, not {_type_name(value)}")
    elif not 1 <= len(value) <= most:
        yield FieldError(pointer, f"must have 1 to {most} characters, not {len(value)}")


def _sku_faults(value: Any, pointer: str) -> Faults:
    fault = next(_string_faults(value, pointer, most=SKU_MAX_LENGTH), None)
    if fault:
        yield fault
    elif value.strip(" ") != value:
        yield FieldError(pointer, "must not begin or end with a blank")
    elif not is_sku(value):
        yield FieldError(
            pointer, "must be printable: no control or format characters, no separators but blanks"
        )


def _text_faults(value: Any, pointer: str) -> Faults:
    fault = next(_string_faults(value, pointer, most=TEXT_MAX_LENGTH), None)
    if fault:
        yield fault
    elif not is_text(value):
        yield FieldError(pointer, "must not hold control characters")


def _optional_text_faults(value: Any, pointer: str) -> Faults:
    return iter(()) if value is None else _text_faults(value, pointer)


def _integer_faults(value: Any, pointer: str, *, least: int, most: int) -> Faults:
    if not isinstance(value, float) or not (value.is_integer() or math.isinf(value)):
        yield FieldError(pointer, f"must be an integer, not {_type_name(value)}")
    elif not least <= value <= most:
        yield FieldError(pointer, f"must be from {least} to {most}")


_quantity_faults = partial(_integer_faults, least=1, most=QUANTITY_MAX)


def _delta_faults(value: Any, pointer: str) -> Faults:
    if value == 0 and isinstance(value, float):
        yield FieldError(pointer, "must not be zero")
    yield from _integer_faults(value, pointer, least=-STOCK_DELTA_MAX, most=STOCK_DELTA_MAX)


def _escaped(name: str) -> str:
    """A member's name as a part of an RFC 6901 pointer."""
    return name.replace("~", "~0").replace("/", "~1")


_TYPE_NAMES = {bool: "a boolean", str: "a string", list: "an array", tuple: "an object"}


def _type_name(value: object) -> str:
    if isinstance(value, float):
        return "an integer" if value.is_integer() else "a fractional number"
    return _TYPE_NAMES.get(type(value), "null")
