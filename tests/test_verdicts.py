"""Decoder, fault finder and published schema are three ways to one verdict on a body."""

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
from hypothesis import example, given
from hypothesis import strategies as st

from shop.domain import SKU_PATTERN, is_sku, is_text
from shop.web import json_body, openapi
from shop.web.faults import order_faults
from shop.web.parsing import parse_order, parse_stock_movement
from shop.web.problems import Kind, Problem

MAX_LINES = 3
SCHEMAS = openapi.document(version="0", max_lines=MAX_LINES, max_body_bytes=1)["components"]


def published(name: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": SCHEMAS})


ORDER_SCHEMA = published("OrderRequest")
MOVEMENT_SCHEMA = published("StockMovementRequest")

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 1_000_002)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-2, 1_000_002).map(float)
    | st.text(max_size=70)
    | st.text(alphabet="aB7: \n\u200b\u00e9", max_size=4)
)
_quantities = st.integers(1, 9) | _scalars
_skus = st.sampled_from(["85123A", "71053", "a b"]) | _scalars
_odd_items = st.fixed_dictionaries({}, optional={"sku": _skus, "quantity": _quantities, "price": _scalars})
_items = st.fixed_dictionaries({"sku": _skus, "quantity": _quantities})
_members = {"customer": _scalars, "reference": _scalars}
_orders = (
    st.fixed_dictionaries({"items": st.lists(_items, max_size=MAX_LINES + 1)}, optional=_members)
    | st.fixed_dictionaries(
        {}, optional={"items": st.lists(_odd_items | _scalars), "x": _scalars, **_members}
    )
    | _scalars
)
_movements = st.fixed_dictionaries(
    {"reason": st.just("delivery") | _scalars},
    optional={"delta": st.integers(-2, 2) | _scalars, "x": _scalars},
)
_half_bodies = _orders.map(lambda order: json.dumps(order).encode()[:-1])


def verdict(body: bytes) -> Kind | None:
    """The kind of problem that an order's body has, if any."""
    try:
        parse_order(body, "application/json", max_lines=MAX_LINES)
    except Problem as problem:
        return problem.kind
    return None


def movement_verdict(body: bytes) -> Kind | None:
    """The kind of problem that a stock movement's body has, if any."""
    try:
        parse_stock_movement(body, "application/json")
    except Problem as problem:
        return problem.kind
    return None


def faults_of(document: object) -> list[tuple[str, str]]:
    # As the API reads it, to which 1.0 is an integer, as it is to the published schema.
    read = json_body.read(json.dumps(document).encode(), max_lines=MAX_LINES, kind=Kind.INVALID_ORDER)
    return [(fault.pointer, fault.detail) for fault in order_faults(read, max_lines=MAX_LINES)]


def way_of(document: Any, pointer: str) -> Iterator[bool]:
    """For each step of a pointer's way, whether it leads somewhere."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        step: Any = name if isinstance(document, dict) else int(name)
        found = step in document if isinstance(document, dict) else step < len(document)
        yield found
        if found:
            document = document[step]


@given(document=_orders)
@example(document={"items": [{"sku": "85123A", "quantity": 1.0}]})
def test_an_order_is_taken_exactly_when_no_fault_is_found(document: object) -> None:
    faults = faults_of(document)

    assert verdict(json.dumps(document).encode()) is (Kind.INVALID_ORDER if faults else None)


@given(document=_orders)
def test_an_order_is_taken_exactly_when_the_published_schema_says_so(document: object) -> None:
    taken = verdict(json.dumps(document).encode()) is None

    assert taken == ORDER_SCHEMA.is_valid(document)


@given(document=_movements)
def test_a_stock_movement_is_taken_exactly_when_the_published_schema_says_so(document: object) -> None:
    taken = movement_verdict(json.dumps(document).encode()) is None

    assert taken == MOVEMENT_SCHEMA.is_valid(document)


@given(document=_orders)
def test_a_pointer_leads_to_a_place_in_the_body_or_to_a_member_that_is_missing(document: object) -> None:
    for pointer, detail in faults_of(document):
        way = list(way_of(document, pointer))

        assert all(way[:-1])
        assert (detail == "is missing") == (way[-1:] == [False])


@given(body=st.binary() | st.text().map(str.encode) | _half_bodies)
def test_no_body_whatever_makes_the_parser_crash(body: bytes) -> None:
    assert verdict(body) in {None, Kind.MALFORMED_JSON, Kind.INVALID_ORDER}
    assert movement_verdict(body) in {None, Kind.MALFORMED_JSON, Kind.INVALID_STOCK_MOVEMENT}


@given(text=st.text(max_size=70))
def test_a_sku_keeps_the_published_pattern(text: str) -> None:
    valid = jsonschema_rs.is_valid({"type": "string", "maxLength": 64, "pattern": SKU_PATTERN}, text)

    assert is_sku(text) == valid


def test_every_visible_character_may_stand_in_a_sku_and_no_invisible_one() -> None:
    invisible = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"}

    wrong = [
        f"U+{number:04X}"
        for number in range(0x110000)
        if (category := unicodedata.category(chr(number))) != "Cn"
        and is_sku(f"a{chr(number)}b") != (category not in invisible or number == ord(" "))
    ]

    assert wrong == []


def test_a_line_feed_at_the_end_is_seen_though_a_search_for_the_pattern_would_miss_it() -> None:
    assert re.search(SKU_PATTERN, "a\n")

    assert not is_sku("a\n")
    assert not is_text("a\n")
