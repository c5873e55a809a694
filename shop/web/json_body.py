"""A request's body as a JSON value, read in a time that its sender cannot stretch.

Objects are read as tuples of their members: that keeps a member which is given twice (RFC 8259, 4), and costs a tenth of
what an object of our own would. Numbers are read as floats: 6, 6.0 and 6e0 are one number, as in JSON Schema, and a million
digits take a millisecond. All that is read as one stays below 2^53, where floats are exact.
"""

import json
from typing import Final

import msgspec

from shop.web.problems import Kind, Problem
from shop.web.schemas import FieldError

JsonObject = tuple[tuple[str, object], ...]

#: Values that a body may hold beside those of its lines, and for each line. A line of an order has 3 as they are counted
#: here. More than that is no order, and to examine 1 MiB of `{},` would keep all other requests waiting for a tenth of a
#: second.
VALUES_BESIDE_LINES: Final = 1_000
VALUES_PER_LINE: Final = 20


class _Outline(msgspec.Struct):
    """A body whose lines nobody has looked into."""

    items: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(msgspec.Raw)
_outline_decoder = msgspec.json.Decoder(_Outline)


def read(body: bytes, *, max_lines: int, kind: Kind) -> object:
    """The JSON value in a body.

    Raises `Problem`: malformed-json, or `kind` with one fault where it holds far more than `max_lines` lines would.
    """
    try:
        text = body.decode()
        _require_few_values(body, VALUES_BESIDE_LINES + VALUES_PER_LINE * max_lines, kind)
        document: object = json.loads(
            text, object_pairs_hook=tuple, parse_int=float, parse_constant=_no_number
        )
        # Python reads half of a surrogate pair ("\ud800"), but UTF-8 and PostgreSQL cannot hold it.
        msgspec.json.encode(document)
    except RecursionError:
        raise Problem(kind=Kind.MALFORMED_JSON, detail="The JSON value is nested too deeply.") from None
    except ValueError as error:
        raise Problem(kind=Kind.MALFORMED_JSON, detail=f"This is no JSON in UTF-8: {error}.") from None
    return document


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def _require_few_values(body: bytes, most: int, kind: Kind) -> None:
    """Raises `Problem`, or `ValueError` where a body with too many values is no JSON either."""
    if not holds_more(body, most):
        return
    _decoder.decode(body)  # whatever it is, it must be JSON
    try:
        is_of_lines = holds_more(bytes(_outline_decoder.decode(body).items), most)
    except msgspec.ValidationError:  # no object at all
        is_of_lines = False
    raise Problem(
        kind=kind,
        detail="The body holds too many lines, or too much in them: it was not looked into.",
        errors=[FieldError("/items" if is_of_lines else "", f"must hold at most {most} values")],
    )


def holds_more(text: bytes, most: int) -> bool:
    """Whether a JSON text holds more than so many values, as `values_in` counts them. The cheapest answers come first."""
    if _signs_in(text) <= most:
        return False
    # A string, which has two quotes, is a value or the name of one.
    return _without_escapes(text).count(b'"') > 4 * (most + 1) or values_in(text) > most


def values_in(text: bytes) -> int:
    """How many values a JSON text holds but for the first one; an empty array or object counts as one more.

    Each value follows one of `[`, `{` and `,`, or the name of a member, which does. Those within strings do not count.
    """
    return _signs_in(b"".join(_without_escapes(text).split(b'"')[::2]))


def _without_escapes(text: bytes) -> bytes:
    return text.replace(rb"\\", b"").replace(rb"\"", b"")


def _signs_in(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")
