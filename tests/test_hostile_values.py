"""Values that try to be something else: parts of Redis keys, patterns, commands, scripts, SQL, paths and headers.

Each reaches the live system over HTTP, as SKU, customer, reference, reason, idempotency key, id, cursor or search. It
stands for itself or is refused; no answer is a 500, and no key or row of anybody else is touched.
"""

import json
import unicodedata
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shop import keys
from shop.clients import create_key, digest
from shop.domain import is_sku, is_text
from shop.models import ApiKey, StockMovement
from shop.models import Order as OrderRow
from shop.stores import redis_client
from shop.web.parsing import parse_idempotency_key
from shop.web.problems import Problem
from tests.builders import a_sku, assert_at_rest, free_in_redis, wait_until
from tests.raw_http import exchange, head
from tests.running import Answer, System

#: Fragments that mean something to somebody on the way.
FRAGMENTS = [
    *(
        ":",
        "*",
        "?",
        "[a-z]",
        "{x}",
        "}{",
        "%",
        "%s",
        "%(id)s",
        "%%",
        "\\",
        "\\u0000",
        '"',
        "'",
        "`",
        "$1",
        "$$",
        ";",
        "--",
    ),
    *(
        "/*",
        ",",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\r\nX: y",
        "\0",
        "\x1b[2J",
        "\x7f",
        "\u200b",
        "\u202e",
        "\u2028",
        "\ufeff",
    ),
    *("\ud800", "\U0001f9e6", "e\u0301", "\u0661\u0662"),
    *(
        "estoque:",
        "order:",
        "lock:produto:",
        "idempotency:",
        "rate:",
        "orders",
        "orders:open",
        "epoch",
        "unacked",
    ),
    *(
        "*1\r\n$8\r\nFLUSHALL\r\n",
        "$-1\r\n",
        "+OK\r\n",
        "EVAL",
        "'] redis.call('FLUSHALL') --",
        "]]",
        "return redis.call",
    ),
    *(
        "'; DROP TABLE shop_order; --",
        "' OR '1'='1",
        '{"a":1}',
        "[]",
        "null",
        "true",
        "NaN",
        "1e309",
        "-0",
        "0x10",
    ),
    *(
        "../../etc/passwd",
        "%2e%2e%2f",
        "<script>",
        "${jndi:ldap://x}",
        "{{7*7}}",
        "__class__",
        "a" * 64,
        "confirmed",
    ),
]
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), min_size=1, max_size=4).map("".join)
#: Of those, what JSON can hold.
in_json = texts.filter(lambda text: not any(unicodedata.category(letter) == "Cs" for letter in text))
ODD_NUMBERS = [
    0,
    -1,
    1_000_001,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    -(2**63),
    10**400,
    1e308,
    -0.0,
    True,
    None,
    "1",
    [],
    {},
]
numbers: st.SearchStrategy[Any] = st.integers() | st.floats() | st.sampled_from(ODD_NUMBERS)

#: Of each property so many examples reach the live system, the same ones each time.
live = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def shop(system: System) -> Iterator[System]:
    """The running system, which never meets an error that it does not know."""
    yield system
    assert "unexpected error" not in system.log("web")
    assert "fulfilment failed" not in system.log("worker")


def body_of(document: object) -> bytes:
    """JSON as Python writes it: NaN and Infinity too, and half surrogates as escapes."""
    return json.dumps(document).encode()


def posted(system: System, document: object, key: str | None = None) -> Answer:
    """The answer to this order."""
    return system.send(
        "POST", "/api/v1/orders", body_of(document), {"Idempotency-Key": key or uuid.uuid4().hex}
    )


def assert_told_well(answer: Answer) -> None:
    """An error that keeps to the contract."""
    assert 400 <= answer.status < 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body["status"] == answer.status
    assert {"type", "title", "detail"} <= set(answer.body)


# --- orders ---------------------------------------------------------------------------------------


@live
@given(sku=in_json)
def test_a_sku_is_itself_or_refused(shop: System, sku: str) -> None:
    answer = posted(shop, {"items": [{"sku": sku, "quantity": 1}]})

    if not is_sku(sku):
        assert answer.status in {400, 422}
        assert_told_well(answer)
        return
    assert answer.body["items"] == [{"sku": sku, "quantity": 1}]
    ended = shop.end_of(answer.body["id"]).body
    assert (ended["status"], ended["reason"]["code"]) == ("rejected", "unknown_sku")
    assert ended["reason"]["lines"][0]["sku"] == sku


@live
@given(customer=in_json, reference=in_json)
def test_a_customer_and_a_reference_are_themselves_or_refused(
    shop: System, customer: str, reference: str
) -> None:
    answer = posted(
        shop, {"items": [{"sku": "none", "quantity": 1}], "customer": customer, "reference": reference}
    )

    if not (is_text(customer) and is_text(reference)):
        assert_told_well(answer)
        return
    ended = shop.end_of(answer.body["id"]).body
    assert (ended["customer"], ended["reference"]) == (customer, reference)
    row = OrderRow.objects.get(id=answer.body["id"])
    assert (row.customer, row.reference) == (customer, reference)


@live
@given(quantity=numbers)
def test_a_quantity_is_a_number_of_units_or_refused(shop: System, quantity: Any) -> None:
    answer = posted(shop, {"items": [{"sku": "none", "quantity": quantity}]})

    is_good = not isinstance(quantity, bool | str | list | dict | None) and quantity in range(1, 1_000_001)
    assert (answer.status == 202) == is_good
    if not is_good:
        assert_told_well(answer)


names = in_json | st.sampled_from(["items", "sku"])
SHAPES = st.recursive(
    numbers | in_json,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@live
@given(document=SHAPES, garbage=st.binary(max_size=12))
def test_a_body_of_any_shape_gets_an_answer(shop: System, document: Any, garbage: bytes) -> None:
    for body in (body_of(document), body_of({"items": document}), garbage, body_of(document)[:-1] + garbage):
        answer = shop.send("POST", "/api/v1/orders", body, {"Idempotency-Key": uuid.uuid4().hex})
        assert answer.status in {202, 400, 422}
        if answer.status != 202:
            assert_told_well(answer)


DEEP = 100_000
BODIES: dict[str, tuple[bytes, int]] = {
    "arrays 100,000 deep": (b"[" * DEEP + b"]" * DEEP, 400),
    "arrays without end": (b"[" * DEEP, 400),
    "objects 100,000 deep": (b'{"items":' * DEEP + b"1" + b"}" * DEEP, 400),
    "items that are deep": (b'{"items":[' + b"[" * DEEP + b"]" * DEEP + b"]}", 400),
    "a number of a million digits": (b'{"items":[{"sku":"a","quantity":' + b"9" * 1_000_000 + b"}]}", 422),
    "an exponent of a million": (b'{"items":[{"sku":"a","quantity":1e1000000}]}', 422),
    "an exponent of minus a million": (b'{"items":[{"sku":"a","quantity":1e-1000000}]}', 422),
    "not a number": (b'{"items":[{"sku":"a","quantity":NaN}]}', 400),
    "infinity": (b'{"items":[{"sku":"a","quantity":-Infinity}]}', 400),
    "a member that is given twice": (b'{"items":[{"sku":"a","quantity":1,"quantity":2}]}', 422),
    "a hundred thousand members": (b"{" + b",".join(b'"%d":1' % n for n in range(90_000)) + b"}", 422),
    "a hundred thousand empty items": (b'{"items":[' + b"{}," * 100_000 + b"{}]}", 422),
    "2,001 lines": (body_of({"items": [{"sku": f"s{n}", "quantity": 1} for n in range(2001)]}), 422),
    "a SKU of a megabyte": (body_of({"items": [{"sku": "x" * 1_000_000, "quantity": 1}]}), 422),
    "a customer of a megabyte": (body_of({"items": [{"sku": "x", "quantity": 1}], "customer": "x" * 1_000_000}), 422),
    "bytes that are no UTF-8": (b'{"items":[{"sku":"\xff\xfe","quantity":1}]}', 400),
    "overlong UTF-8": (b'{"items":[{"sku":"\xc0\xaf","quantity":1}]}', 400),
    "half a surrogate pair": (rb'{"items":[{"sku":"\ud800","quantity":1}]}', 400),
    "UTF-16": ('{"items": []}'.encode("utf-16"), 400),
    "a compressed body": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", 400),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["orders", "products/none/stock-movements"])
def test_a_body_that_is_too_much_is_refused_and_the_next_one_is_not(
    shop: System, name: str, path: str
) -> None:
    body, status = BODIES[name]

    answer = shop.send("POST", f"/api/v1/{path}", body, {"Idempotency-Key": uuid.uuid4().hex})

    # A stock movement has no items: what is wrong with them is of no interest to it.
    assert answer.status in {status, 422 if path != "orders" else status}
    assert_told_well(answer)
    assert shop.place((a_sku(), 1)).status == 202


def test_1001_lines_are_taken(shop: System) -> None:
    answer = posted(shop, {"items": [{"sku": f"none {n}", "quantity": 1_000_000} for n in range(1001)]})

    assert answer.status == 202
    assert shop.end_of(answer.body["id"]).body["status"] == "rejected"


# --- keys, ids, searches --------------------------------------------------------------------------


@live
@given(key=texts)
def test_an_idempotency_key_is_itself_or_refused(shop: System, key: str) -> None:
    raw = key.encode("utf-8", "surrogatepass")
    body = body_of({"items": [{"sku": "none", "quantity": 1}], "reference": uuid.uuid4().hex})
    framing = ["Content-Type: application/json", f"Content-Length: {len(body)}"]

    reply = exchange(
        shop, head(shop, "POST /api/v1/orders HTTP/1.1", b"Idempotency-Key: " + raw, *framing), body
    )

    # A line feed may end the header, or the head; a reused key is one that an example before this had, too.
    taken = shop_key(raw)
    assert reply.status in ({202, 422} if taken else {400, 408, 415, 422})
    assert taken is None or redis_client().exists(keys.idempotency(client_of(shop), taken))


def shop_key(raw: bytes) -> str | None:
    """The key that the API should read from this header, None where it should read none."""
    if any(byte in raw for byte in (b"\r", b"\n", b"\0", b"\x1b", b"\x7f")):
        return None
    try:
        return parse_idempotency_key([raw.decode("latin-1").strip(" \t")])
    except Problem:
        return None


def client_of(system: System) -> str:
    """Who the tests are to the system."""
    return str(ApiKey.objects.get(digest=digest(system.api_key)).client)


@live
@given(key=texts.filter(lambda key: key.isascii() and key.isprintable() and " " not in key))
def test_a_strange_key_stands_for_one_order_of_one_client(shop: System, key: str) -> None:
    sku = a_sku()
    stranger = create_key(f"stranger-{uuid.uuid4().hex[:8]}", ["orders"])
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + uuid.uuid4().hex + '"'
    body = {"items": [{"sku": sku, "quantity": 1}]}

    mine, again, theirs = (
        shop.send("POST", "/api/v1/orders", body, {"Idempotency-Key": quoted}, api_key=api_key)
        for api_key in (shop.api_key, shop.api_key, stranger)
    )

    assert [answer.status for answer in (mine, again, theirs)] == [202] * 3
    assert mine.body["id"] == again.body["id"] != theirs.body["id"]


@live
@given(text=texts)
def test_an_id_or_a_sku_in_an_address_leads_to_what_it_names_or_nowhere(shop: System, text: str) -> None:
    part = quote(text.encode("utf-8", "surrogatepass"), safe="")

    for method, path in [
        ("GET", f"/api/v1/orders/{part}"),
        ("POST", f"/api/v1/orders/{part}/cancel"),
        ("GET", f"/api/v1/products/{part}"),
        ("POST", f"/api/v1/products/{part}/stock-movements"),
    ]:
        body = {"delta": 1, "reason": "count"} if path.endswith("movements") else None
        answer = shop.send(method, path, body, {"Idempotency-Key": uuid.uuid4().hex})
        assert answer.status in {404, 405}
        assert_told_well(answer)


@live
@given(text=texts)
def test_a_search_or_a_cursor_finds_what_it_says_or_is_refused(shop: System, text: str) -> None:
    part = quote(text.encode("utf-8", "surrogatepass"), safe="")

    for query in (f"q={part}", f"cursor={part}", f"limit={part}", f"{part}={part}", part):
        answer = shop.get(f"/api/v1/products?{query}")
        assert answer.status in {200, 400}
        if answer.status == 400:
            assert_told_well(answer)


@live
@given(reason=in_json, delta=numbers)
def test_a_reason_is_itself_or_refused(shop: System, reason: str, delta: Any) -> None:
    sku = a_sku(stock=10)
    path = f"/api/v1/products/{quote(sku, safe='')}/stock-movements"

    for units in (1, delta):
        key = uuid.uuid4().hex
        answer = shop.send(
            "POST", path, body_of({"delta": units, "reason": reason}), {"Idempotency-Key": key}
        )
        if answer.status == 201:
            assert StockMovement.objects.get(request=answer.body["id"]).reason == reason
        else:
            assert_told_well(answer)


# --- what none of it may touch --------------------------------------------------------------------


def test_skus_that_look_like_keys_of_others_have_stock_of_their_own(shop: System) -> None:
    """A SKU may hold every sign that has a meaning in Redis, Lua and SQL: they are sold like any other."""
    names = ["X:Y", "*", "a*", "{a}:b", "orders:open", "epoch", "[a-z]?", "%(id)s", "'; DROP TABLE x; --",
             "') redis.call('FLUSHALL') --", "$1", "\\0", '"', "a\\"]  # fmt: skip
    marked = [f"{name} {uuid.uuid4().hex[:6]}" for name in names]
    skus = [a_sku(stock=10, sku=sku) for sku in marked]

    ended = [shop.end_of(shop.place((sku, 3)).body["id"]).body for sku in skus]
    together = shop.end_of(shop.place(*((sku, 1) for sku in skus)).body["id"]).body

    assert {body["status"] for body in (*ended, together)} == {"confirmed"}
    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="every order to be settled")
    assert [free_in_redis(redis_client(), sku) for sku in skus] == [6] * len(skus)
    assert_at_rest(redis_client())


def test_no_value_made_a_key_of_its_own(shop: System, client: "redis.Redis") -> None:
    """On an empty Redis: whatever strange values leave behind are keys that are listed, under names made of them whole."""
    sku, key = "orders:open {*} \\x", 'a:b*{}"\\' + uuid.uuid4().hex
    a_sku(stock=10, sku=sku)
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    answer = shop.send(
        "POST", "/api/v1/orders", {"items": [{"sku": sku, "quantity": 1}]}, {"Idempotency-Key": quoted}
    )
    shop.end_of(answer.body["id"])

    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="the order to be settled")
    made = {name for name in client.scan_iter(count=10_000) if "{" in name}
    owner = OrderRow.objects.get(id=answer.body["id"]).client
    assert made == {keys.stock(sku), keys.version(sku), keys.idempotency(owner, key)}
