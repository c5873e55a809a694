"""What a client reads when something went wrong."""

import re

import jsonschema_rs
import msgspec
import pytest

from shop.web.problems import MEDIA_TYPE, Kind, Problem, require_method, response
from shop.web.schemas import FieldError, ProblemDocument

every_kind = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.slug)


def read(problem: Problem) -> dict[str, object]:
    document: dict[str, object] = msgspec.json.decode(response(problem).content)
    return document


@every_kind
def test_a_problem_is_answered_as_the_catalogue_says(kind: Kind) -> None:
    answer = response(Problem(kind=kind))

    assert answer.status_code == kind.status
    assert answer["Content-Type"] == MEDIA_TYPE == "application/problem+json"
    assert {name: answer[name] for name in kind.headers} == kind.headers
    assert msgspec.json.decode(answer.content) == {
        "type": kind.slug,
        "title": kind.title,
        "status": kind.status,
        "detail": kind.advice,
    }


@every_kind
def test_a_problem_keeps_the_published_schema(kind: Kind) -> None:
    problem = Problem(kind=kind, errors=[FieldError("/items/0/sku", "is missing")])

    assert jsonschema_rs.is_valid(msgspec.json.schema(ProblemDocument), read(problem))


@every_kind
def test_a_kind_tells_the_client_what_to_do_in_one_sentence(kind: Kind) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.slug)
    assert re.fullmatch(r"[A-Z][^.]*(\.\.\.)?[^.]*\.", kind.advice)


def test_no_two_kinds_share_a_slug_or_a_title() -> None:
    assert len({kind.slug for kind in Kind}) == len({kind.title for kind in Kind}) == len(Kind)


def test_a_client_that_must_wait_is_told_how_long() -> None:
    busy = [kind for kind in Kind if kind.status in {429, 503}]

    assert len(busy) == 4
    assert all(kind.headers["Retry-After"].isdigit() for kind in busy)


def test_a_client_without_a_key_is_told_how_to_authenticate() -> None:
    assert response(Problem(kind=Kind.UNAUTHORIZED))["WWW-Authenticate"] == "Bearer"


def test_bad_fields_are_listed_only_where_there_are_any() -> None:
    faults = [FieldError("/items/0/sku", "is missing"), FieldError("/a~1b", "is unknown")]

    assert "errors" not in read(Problem(kind=Kind.INVALID_ORDER))
    assert read(Problem(kind=Kind.INVALID_ORDER, errors=faults))["errors"] == [
        {"pointer": "/items/0/sku", "detail": "is missing"},
        {"pointer": "/a~1b", "detail": "is unknown"},
    ]


def test_a_problem_says_what_happened_and_overrides_the_headers_of_its_kind() -> None:
    problem = Problem(
        kind=Kind.RATE_LIMITED, detail="You may place 5 orders/s.", headers={"Retry-After": "9"}
    )

    answer = response(problem)

    assert answer["Retry-After"] == "9"
    assert read(problem)["detail"] == "You may place 5 orders/s."
    assert str(problem) == "rate-limited: You may place 5 orders/s."


def test_nobody_can_tell_an_unknown_order_from_a_foreign_one() -> None:
    unknown, foreign = response(Problem(kind=Kind.NOT_FOUND)), response(Problem(kind=Kind.NOT_FOUND))

    assert unknown == foreign


def test_a_method_that_an_address_does_not_have_is_refused_with_those_it_has() -> None:
    require_method("GET", "GET", "HEAD")

    with pytest.raises(Problem) as refused:
        require_method("DELETE", "GET", "HEAD")

    assert response(refused.value).status_code == 405
    assert response(refused.value)["Allow"] == "GET, HEAD"
