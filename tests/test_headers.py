"""What the API reads from headers and query parameters."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop.domain import is_sku
from shop.web.parameters import KEY_PATTERN
from shop.web.parsing import (
    cursor_after,
    parse_cursor,
    parse_idempotency_key,
    parse_limit,
    parse_prefer_wait,
    parse_search,
    request_id,
)
from shop.web.problems import Kind, Problem

_keys = st.text(alphabet=[chr(number) for number in range(0x21, 0x7F)], min_size=1, max_size=255)


def quoted(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def key_fault(*values: str) -> str:
    with pytest.raises(Problem) as refused:
        parse_idempotency_key(values)
    assert refused.value.kind is Kind.INVALID_IDEMPOTENCY_KEY
    return refused.value.detail


# --- idempotency keys --------------------------------------------------------------------------------


@given(key=_keys)
def test_a_quoted_key_may_hold_every_visible_character(key: str) -> None:
    assert parse_idempotency_key([quoted(key)]) == key


@given(key=_keys.filter(lambda key: not set(key) & set(',"')))
def test_a_bare_key_is_the_same_as_the_quoted_one(key: str) -> None:
    assert parse_idempotency_key([key]) == parse_idempotency_key([quoted(key)]) == key


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([], "missing"),
        ([""], "empty"),
        (["  "], "empty"),
        (['""'], "empty"),
        (["k" * 256], "too long"),
        (['"' + "k" * 256 + '"'], "too long"),
        (["a", "a"], "twice"),
        (["a,b"], "twice"),
        (["a, a"], "twice"),
        (['"a", "b"'], "twice"),
        (['"a,b",c'], "twice"),
        (["a b"], "bad characters"),
        (['"a b"'], "bad characters"),
        (["a\tb"], "bad characters"),
        (["\u00e9"], "bad characters"),
        (['a"b'], "bad characters"),
        (['"a'], "bad characters"),
        (['"'], "bad characters"),
        ([r'"a\b"'], "bad characters"),
        (['"a";p=1'], "bad characters"),
    ],
    ids=repr,
)
def test_a_bad_idempotency_key_is_refused_with_the_rule_it_breaks(values: list[str], fault: str) -> None:
    assert fault in key_fault(*values)


@pytest.mark.parametrize(
    "text", ['"\\' * 50_000, '"' * 100_000, ",a" * 50_000, "k" * 1025], ids=lambda text: text[:4]
)
def test_a_key_without_end_is_not_looked_into(text: str) -> None:
    assert "too long" in key_fault(text)


def test_escapes_do_not_count_against_the_length_of_a_key() -> None:
    assert parse_idempotency_key([quoted('"' * 255)]) == '"' * 255


@given(value=st.text(max_size=12) | st.text(alphabet='ab",\\ ;', max_size=12) | _keys | _keys.map(quoted))
def test_an_idempotency_key_is_taken_exactly_when_the_published_pattern_says_so(value: str) -> None:
    try:
        parse_idempotency_key([value])
        taken = True
    except Problem:
        taken = False

    assert taken == (re.fullmatch(KEY_PATTERN, value.strip(" \t")) is not None)


# --- waiting, and the request's own id ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([], None),
        (["wait=10"], 10),
        (["wait=0"], 0),
        (["wait=31"], 30),
        (["wait=" + "9" * 500], 30),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (['Wait = "7" ; x=y'], 7),
        (['foo="a, wait=3", wait=7'], 7),
        (["wait=5, wait=9"], 5),
        (["wait=soon, wait=9"], None),
        (["wait"], None),
        (["wait="], None),
        (["wait;a=5"], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=\u0663"], None),
        (['wait="5'], None),
        (['a="b, wait=5'], None),
        (["wait=0" + "0" * 500 + "7"], 7),
        (["waiting=5"], None),
        (["wait=5, " + "x" * 1016], 5),
        (["wait=5, " + "x" * 1017], None),
        (["wait=5", "x" * 1018], None),
        (["wait=5, " + '"\\' * 50_000], None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_client_says_how_long_it_would_wait(values: list[str], seconds: int | None) -> None:
    assert parse_prefer_wait(values) == seconds


@given(values=st.lists(st.text(max_size=20) | st.text(alphabet='wait=",;\\ 12', max_size=20)))
def test_no_preference_whatever_is_an_error(values: list[str]) -> None:
    assert parse_prefer_wait(values) in {None, *range(31)}


@pytest.mark.parametrize("sane", ["a", "7f2c-1d.x:y_Z", "x" * 128])
def test_a_sane_request_id_is_kept(sane: str) -> None:
    assert request_id(sane) == sane


@pytest.mark.parametrize("odd", [None, "", "x" * 129, "a b", "a\n", "\u00e9", "<script>"], ids=repr)
def test_any_other_request_id_is_replaced_by_a_new_one(odd: str | None) -> None:
    first, second = request_id(odd), request_id(odd)

    assert first != second
    assert re.fullmatch("[0-9a-f]{32}", first)


# --- pages of products -------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "limit"), [(None, 100), ("1", 1), ("42", 42), ("500", 500)])
def test_a_page_has_as_many_products_as_asked_for(value: str | None, limit: int) -> None:
    assert parse_limit(value) == limit


@pytest.mark.parametrize(
    "value",
    ["", "0", "501", "-1", "1.0", "ten", " 1", "1\n", "01", "\u0661", "9" * 5000],
    ids=lambda v: repr(v)[:9],
)
def test_any_other_limit_is_refused(value: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_limit(value)

    assert refused.value.kind is Kind.INVALID_REQUEST
    assert "1 to 500" in refused.value.detail


@given(sku=st.text(min_size=1, max_size=64).filter(is_sku))
def test_a_cursor_leads_back_to_its_sku(sku: str) -> None:
    cursor = cursor_after(sku)

    assert re.fullmatch("[A-Za-z0-9_-]+", cursor)
    assert parse_cursor(cursor) == sku


def test_the_first_page_has_no_cursor() -> None:
    assert parse_cursor(None) is None


@pytest.mark.parametrize(
    "value", ["", "!", "A", "YQ==", "YR", "_w", "AA", "IA", "YWE\n", "\u00e9", "Y Q"], ids=repr
)
def test_a_cursor_that_was_made_up_is_refused(value: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_cursor(value)

    assert refused.value.kind is Kind.INVALID_REQUEST


@pytest.mark.parametrize(("value", "search"), [(None, ""), ("", ""), ("heart", "heart"), ("%_\\", "%_\\")])
def test_products_are_searched_for_any_text(value: str | None, search: str) -> None:
    assert parse_search(value) == search


@pytest.mark.parametrize("value", ["\x00", "a\nb", "x" * 256], ids=lambda value: repr(value[:3]))
def test_a_search_that_no_product_can_match_is_refused(value: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_search(value)

    assert refused.value.kind is Kind.INVALID_REQUEST
