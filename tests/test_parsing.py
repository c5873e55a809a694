"""Which bodies the API takes, which it refuses, and how exactly it says why."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop.web import json_body
from shop.web.json_body import holds_more, values_in
from shop.web.parsing import FAULTS_MAX, parse_order, parse_stock_movement
from shop.web.problems import Kind, Problem
from shop.web.schemas import OrderItem, OrderRequest, StockMovementRequest

JSON = "application/json"
MAX_LINES = 3


def an_order(**changes: Any) -> dict[str, Any]:
    return {"items": [{"sku": "85123A", "quantity": 6}], **changes}


def an_item(**changes: Any) -> dict[str, Any]:
    return {"sku": "85123A", "quantity": 6, **changes}


def body_of(document: object) -> bytes:
    return json.dumps(document).encode()


def parsed(document: object) -> OrderRequest:
    return parse_order(json.dumps(document).encode(), JSON, max_lines=MAX_LINES)


def problem_of(body: bytes, content_type: str = JSON) -> Problem:
    with pytest.raises(Problem) as refused:
        parse_order(body, content_type, max_lines=MAX_LINES)
    return refused.value


def pointers_of(document: object) -> list[str]:
    problem = problem_of(json.dumps(document).encode())
    assert problem.kind is Kind.INVALID_ORDER
    return [error.pointer for error in problem.errors]


# --- orders that are taken ---------------------------------------------------------------------------


def test_an_order_is_read_as_it_was_sent() -> None:
    order = parsed(
        {
            "items": [{"sku": "85123A", "quantity": 6}, {"sku": "22 x 4", "quantity": 1_000_000}],
            "customer": "17850",
            "reference": "n\u00ba 7: first",
        }
    )

    assert order == OrderRequest(
        items=[OrderItem("85123A", 6), OrderItem("22 x 4", 1_000_000)],
        customer="17850",
        reference="n\u00ba 7: first",
    )


@pytest.mark.parametrize(
    "sku", ["a", "A" * 64, "85:123", "\u00e9\u00df", "\U0001f9e6", "a  b", "{x}", "\u05e9", '"', "\\"]
)
def test_a_sku_is_any_printable_text_of_up_to_64_characters(sku: str) -> None:
    assert parsed(an_order(items=[an_item(sku=sku)])).items[0].sku == sku


@pytest.mark.parametrize("number", ["6", "6.0", "6e0", "0.6E+1", "600e-2"])
def test_a_quantity_is_an_integer_however_it_is_written(number: str) -> None:
    body = b'{"items": [{"sku": "85123A", "quantity": %s}]}' % number.encode()

    order = parse_order(body, JSON, max_lines=MAX_LINES)

    assert order == parsed(an_order())
    assert type(order.items[0].quantity) is int


def test_what_is_not_given_may_also_be_null() -> None:
    assert parsed(an_order(customer=None, reference=None)) == parsed(an_order())


def test_repeated_skus_may_add_up_to_more_than_one_item_may_have() -> None:
    order = parsed(an_order(items=[an_item(quantity=1_000_000)] * MAX_LINES))

    assert sum(item.quantity for item in order.items) == MAX_LINES * 1_000_000


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json ; profile=x",
        "application/json" + ";" * 1008,
    ],
)
def test_a_body_may_call_itself_json_in_any_spelling(content_type: str) -> None:
    assert parse_order(json.dumps(an_order()).encode(), content_type, max_lines=MAX_LINES)


# --- orders that are refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/jsonp",
        "application/problem+json",
        "application/json, application/json",
        "application/json; charset=latin-1",
        "application/json; charset=utf-8; charset=utf-16",
        "application/json; charset",
        "application/x-www-form-urlencoded",
        "application/json" + "; " * 50_000,
        "application/json;" + " " * 100_000 + "!",
        "application/json" + ";" * 1009,
    ],
    ids=lambda value: value[:60],
)
def test_another_content_type_is_refused(content_type: str) -> None:
    assert problem_of(b"{}", content_type).kind is Kind.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} {}",
        b"{'items': 1}",
        b'{"items": [],}',
        b"\xef\xbb\xbf{}",
        b'{"customer": "\xff"}',
        '{"customer": "\u00e9"}'.encode("latin-1"),
        '{"customer": "x"}'.encode("utf-16"),
        b'{"customer": "a\x00b"}',
        rb'{"customer": "\ud800"}',
        rb'{"\udfff": 1}',
        rb'["\ud800"]',
        b'{"items": NaN}',
        b'{"items": -Infinity}',
        b"[" * 100_000,
        b'{"items":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_json_is_refused_as_malformed(body: bytes) -> None:
    assert problem_of(body).kind is Kind.MALFORMED_JSON


@pytest.mark.parametrize(
    "value",
    [0, -1, 1_000_001, 2**31, 2**64, -(2**63), 10**400, 1.5, 1e7, "2", True, False, None, [], {}],
    ids=lambda value: repr(value)[:12],
)
def test_a_quantity_is_an_integer_from_1_to_a_million(value: object) -> None:
    assert pointers_of(an_order(items=[an_item(quantity=value)])) == ["/items/0/quantity"]


@pytest.mark.parametrize(
    "digits", ["1" * 1_000_000, "-" + "9" * 5_000, "1e400"], ids=lambda digits: digits[:3]
)
def test_a_number_of_any_size_is_a_fault_at_its_place(digits: str) -> None:
    problem = problem_of(b'{"items": [{"sku": "a", "quantity": %s}]}' % digits.encode())

    assert [error.pointer for error in problem.errors] == ["/items/0/quantity"]


@pytest.mark.parametrize(
    "sku",
    [
        "",
        " ",
        " a",
        "a ",
        "a\n",
        "a\tb",
        "a\x00",
        "\x7f",
        "\x85",
        "a\u00a0b",
        "\u200b",
        "\u202ea",
        "\u2028",
        "\u3000",
    ],
    ids=ascii,
)
def test_a_sku_without_visible_text_at_both_ends_or_with_invisible_text_is_refused(sku: str) -> None:
    assert pointers_of(an_order(items=[an_item(sku=sku)])) == ["/items/0/sku"]


@pytest.mark.parametrize("sku", ["A" * 65, 85123, None, ["a"]], ids=repr)
def test_a_sku_is_text_of_at_most_64_characters(sku: object) -> None:
    assert pointers_of(an_order(items=[an_item(sku=sku)])) == ["/items/0/sku"]


@pytest.mark.parametrize("member", ["customer", "reference"])
@pytest.mark.parametrize("value", ["", "x" * 256, "a\nb", "a\n", "\x00", 17850, True, {}], ids=repr)
def test_a_customer_and_a_reference_are_text_without_control_characters(member: str, value: object) -> None:
    assert pointers_of(an_order(**{member: value})) == [f"/{member}"]


@pytest.mark.parametrize("document", [None, True, 1, "order", [], [an_order()]], ids=repr)
def test_an_order_is_an_object(document: object) -> None:
    assert pointers_of(document) == [""]


@pytest.mark.parametrize("items", [[], {}, None, "x", [an_item()] * (MAX_LINES + 1)], ids=repr)
def test_an_order_has_from_one_to_the_most_allowed_items(items: object) -> None:
    assert pointers_of(an_order(items=items)) == ["/items"]


def test_every_fault_is_named_at_its_place() -> None:
    document = {
        "items": [{"sku": " x", "quantity": 0}, 7, {"quantity": "2", "price": 1}],
        "customer": "",
        "a/b~c": 1,
        "": 2,
    }

    assert set(pointers_of(document)) == {
        "/items/0/sku",
        "/items/0/quantity",
        "/items/1",
        "/items/2/sku",
        "/items/2/quantity",
        "/items/2/price",
        "/customer",
        "/a~1b~0c",
        "/",
    }


def test_a_missing_member_is_named_where_it_should_be() -> None:
    assert pointers_of({}) == ["/items"]
    assert pointers_of({"items": [{}]}) == ["/items/0/sku", "/items/0/quantity"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"items":[{"sku":"a","quantity":1,"quantity":2}]}', "/items/0/quantity"),
        (b'{"items":[{"sku":"a","quantity":1}],"items":[{"sku":"a","quantity":1}]}', "/items"),
        (rb'{"items":[{"sku":"a","quantity":1,"s\u006bu":"b"}]}', "/items/0/sku"),
    ],
)
def test_a_member_that_is_given_twice_is_refused_rather_than_guessed(body: bytes, pointer: str) -> None:
    problem = problem_of(body)

    assert [(error.pointer, error.detail) for error in problem.errors] == [
        (pointer, "is given more than once")
    ]
    assert msgspec.json.decode(body, type=OrderRequest)  # the decoder alone would have taken the last one


def test_a_colon_in_a_text_is_no_second_member() -> None:
    assert parsed(an_order(items=[an_item(sku="a:b")], reference="::")).reference == "::"


def test_a_body_with_more_faults_than_are_listed_says_so() -> None:
    problem = problem_of(body_of({"items": [], **dict.fromkeys(map(str, range(FAULTS_MAX)), 0)}))

    assert len(problem.errors) == FAULTS_MAX
    assert "more than 100" in problem.detail


def test_of_too_many_lines_none_is_looked_into() -> None:
    problem = problem_of(body_of({"items": [{}] * (MAX_LINES + 1)}))

    assert [(error.pointer, error.detail) for error in problem.errors] == [
        ("/items", f"must hold 1 to {MAX_LINES} items, not {MAX_LINES + 1}")
    ]


#: Bodies of 1 MiB that hold as many values as possible, and where the one fault is.
FULL = 1_048_576
CROWDED: dict[str, tuple[bytes, str]] = {
    "empty items": (b'{"items":[%s{}]}' % (b"{}," * (FULL // 3 - 5)), "/items"),
    "numbers": (b'{"items":[%s0]}' % (b"0," * (FULL // 2 - 7)), "/items"),
    "good lines": (b'{"items":[%s0]}' % (b'{"sku":"a","quantity":1},' * (FULL // 25 - 1)), "/items"),
    "one item with countless members": (b'{"items":[{%s"a":0}]}' % (b'"a":0,' * (FULL // 6 - 4)), "/items"),
    "arrays for a customer": (b'{"items":[],"customer":[%s[]]}' % (b"[]," * (FULL // 3 - 11)), ""),
    "countless members": (b'{%s"a":0}' % (b'"a":0,' * (FULL // 6 - 2)), ""),
    "an array": (b"[%s0]" % (b"0," * (FULL // 2 - 2)), ""),
}


@pytest.mark.parametrize("name", CROWDED)
def test_a_body_that_holds_far_too_much_has_one_fault_and_is_not_looked_into(name: str) -> None:
    body, pointer = CROWDED[name]

    problem = problem_of(body)

    assert len(body) <= FULL
    assert (problem.kind, [error.pointer for error in problem.errors]) == (Kind.INVALID_ORDER, [pointer])
    assert values_in(body) > 100_000


@given(
    document=st.recursive(
        st.integers() | st.text(alphabet='a\\",[{:', max_size=6),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('",\\', max_size=3), inner),
    )
)
def test_values_are_counted_without_reading_them(document: object) -> None:
    def count(value: object) -> int:
        inside = list(value.values() if isinstance(value, dict) else value if isinstance(value, list) else [])
        return (max(1, len(inside)) if isinstance(value, dict | list) else 0) + sum(map(count, inside))

    body = body_of(document)

    assert count(document) == values_in(body)
    assert [holds_more(body, most) for most in (count(document) - 1, count(document))] == [True, False]


def test_what_texts_hold_does_not_count_as_values() -> None:
    crowded_skus = [an_item(sku=",[{:" * 16)] * MAX_LINES

    assert len(parsed(an_order(items=crowded_skus, reference=",[{" * 85)).items) == MAX_LINES


def test_without_a_count_of_values_a_crowded_body_is_examined_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_body, "VALUES_BESIDE_LINES", FULL)

    problem = problem_of(CROWDED["empty items"][0])

    assert f"not {FULL // 3 - 4}" in problem.errors[0].detail


# --- stock movements ---------------------------------------------------------------------------------


def movement_pointers(document: object) -> list[str]:
    with pytest.raises(Problem) as refused:
        parse_stock_movement(json.dumps(document).encode(), JSON)
    assert refused.value.kind is Kind.INVALID_STOCK_MOVEMENT
    return [error.pointer for error in refused.value.errors]


@pytest.mark.parametrize("delta", [1, -1, 10**9, -(10**9)])
def test_a_stock_movement_goes_up_or_down(delta: int) -> None:
    body = json.dumps({"delta": delta, "reason": "delivery"}).encode()

    assert parse_stock_movement(body, JSON) == StockMovementRequest(delta=delta, reason="delivery")


@pytest.mark.parametrize("delta", [0, 10**9 + 1, -(10**9) - 1, 1.5, "1", True, None], ids=repr)
def test_a_movement_of_nothing_or_of_no_sensible_number_is_refused(delta: object) -> None:
    assert movement_pointers({"delta": delta, "reason": "delivery"}) == ["/delta"]


def test_a_stock_movement_needs_a_delta_a_reason_and_nothing_else() -> None:
    assert movement_pointers({}) == ["/delta", "/reason"]
    assert movement_pointers({"delta": 1, "reason": "", "sku": "x"}) == ["/reason", "/sku"]


def test_a_stock_movement_must_be_json() -> None:
    with pytest.raises(Problem) as untyped:
        parse_stock_movement(b"{}", "text/plain")
    with pytest.raises(Problem) as malformed:
        parse_stock_movement(b"{", JSON)

    assert untyped.value.kind is Kind.UNSUPPORTED_MEDIA_TYPE
    assert malformed.value.kind is Kind.MALFORMED_JSON
