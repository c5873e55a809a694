"""The published description of the API: true, complete, and readable by machines and by people."""

import asyncio
import gzip
import re
from collections.abc import Awaitable, Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from django.conf import settings
from django.contrib.staticfiles import finders
from django.urls import Resolver404, get_resolver, resolve

from shop.domain import Status
from shop.web import documentation, openapi
from shop.web.endpoints import OPERATIONS
from shop.web.http import Answer, Request
from shop.web.problems import Kind, Problem

Json = dict[str, Any]

DOCUMENT = openapi.document(version="1.2.3", max_lines=7, max_body_bytes=1_000)


def operations(document: Json = DOCUMENT) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


every_operation = pytest.mark.parametrize(
    ("method", "path", "operation"),
    list(operations()),
    ids=[operation["operationId"] for *_, operation in operations()],
)


def assert_valid(value: object, schema: Json) -> None:
    jsonschema_rs.validate({**schema, "components": DOCUMENT["components"]}, value, validate_formats=True)


def contents(operation: Json) -> Iterator[Json]:
    """Every body that the operation reads or writes."""
    described = [operation.get("requestBody", {}), *operation["responses"].values()]
    for body in described:
        yield from body.get("content", {}).values()


def answered(view: Callable[[Request], Awaitable[Answer]], method: str = "GET", **headers: str) -> Answer:
    sent = {name.replace("_", "-").encode(): [value] for name, value in headers.items()}

    async def call() -> Answer:
        return await view(Request(method=method, path="/api/docs", headers=sent))

    return asyncio.run(call())


# --- the document ------------------------------------------------------------------------------------


def test_the_document_is_valid_openapi_31() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()

    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"]["version"] == "1.2.3"


def test_the_check_of_the_document_would_notice_a_fault() -> None:
    broken = {**DOCUMENT, "paths": {"/x": {"get": {"responses": {"200": {"description": 7}}}}}}

    with pytest.raises(jsonschema_rs.ValidationError):
        schemathesis.openapi.from_dict(broken).validate()


@every_operation
def test_every_example_keeps_the_schema_beside_it(method: str, path: str, operation: Json) -> None:
    for content in contents(operation):
        examples = [example["value"] for example in content.get("examples", {}).values()]
        for example in [*examples, *([content["example"]] if "example" in content else [])]:
            assert_valid(example, content["schema"])
    for parameter in operation["parameters"]:
        assert_valid(parameter["example"], parameter["schema"])


def test_every_header_has_a_valid_example() -> None:
    for header in DOCUMENT["components"]["headers"].values():
        assert_valid(header["example"], header["schema"])


@every_operation
def test_every_answer_carries_a_request_id(method: str, path: str, operation: Json) -> None:
    for response in operation["responses"].values():
        assert response["headers"]["X-Request-ID"]["required"]


@every_operation
def test_every_placeholder_of_a_path_is_a_required_parameter(method: str, path: str, operation: Json) -> None:
    placed = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"]

    assert re.findall(r"{(\w+)}", path) == placed
    assert all(parameter["required"] for parameter in operation["parameters"] if parameter["in"] == "path")


@every_operation
def test_only_api_keys_with_the_scope_are_let_in_and_others_are_told_why(
    method: str, path: str, operation: Json
) -> None:
    scopes = [scope for requirement in operation["security"] for scope in requirement["apiKey"]]

    assert ("401" in operation["responses"]) == bool(operation["security"]) == path.startswith("/api/v1")
    refusals = operation["responses"].get("403", {}).get("content", {}).get("application/problem+json", {})
    assert ("forbidden" in refusals.get("examples", {})) == bool(scopes)


@every_operation
def test_a_body_comes_with_all_that_can_be_wrong_with_it(method: str, path: str, operation: Json) -> None:
    assert ("requestBody" in operation) == ({"413", "415", "422"} <= set(operation["responses"]))


def test_each_problem_of_the_catalogue_is_published() -> None:
    published = {
        slug
        for _, _, operation in operations()
        for response in operation["responses"].values()
        for slug in response.get("content", {}).get("application/problem+json", {}).get("examples", ())
    }

    # 405 belongs to no method that a path has, and so to no operation.
    assert published == {kind.slug for kind in Kind} - {"method-not-allowed"}


def test_a_problem_of_another_type_than_the_published_ones_breaks_the_schema() -> None:
    response = DOCUMENT["paths"]["/api/v1/orders"]["post"]["responses"]["422"]["content"][
        "application/problem+json"
    ]
    known = response["examples"]["idempotency-key-reused"]["value"]

    assert_valid(known, response["schema"])
    with pytest.raises(jsonschema_rs.ValidationError):
        assert_valid({**known, "type": "not-found"}, response["schema"])


def test_the_limits_are_those_of_the_settings() -> None:
    order = DOCUMENT["components"]["schemas"]["OrderRequest"]["properties"]["items"]
    body = DOCUMENT["paths"]["/api/v1/orders"]["post"]["requestBody"]

    assert (order["minItems"], order["maxItems"]) == (1, 7)
    assert "1000 bytes" in body["description"]


@every_operation
def test_every_published_address_is_served(method: str, path: str, operation: Json) -> None:
    for parameter in operation["parameters"]:
        path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))

    assert callable(resolve(path).func)


def test_every_address_of_the_api_is_published() -> None:
    routes = [re.sub(r"<(?:\w+:)?(\w+)>", r"{}", str(entry.pattern)) for entry in get_resolver().url_patterns]
    published = {re.sub(r"{\w+}", "{}", path) for _, path, _ in operations()}

    assert {f"/{route}" for route in routes if route.startswith("api/v1/")} <= published


# --- the views ---------------------------------------------------------------------------------------


def test_the_document_is_served_as_json_with_this_system_s_limits() -> None:
    answer = answered(documentation.openapi_json)

    document = msgspec.json.decode(answer.content)
    assert answer["Content-Type"] == "application/json"
    assert (
        document["components"]["schemas"]["OrderRequest"]["properties"]["items"]["maxItems"]
        == settings.MAX_ORDER_LINES
    )
    assert {operation["operationId"] for _, _, operation in operations(document)} == {
        o.id for o in OPERATIONS
    }


@pytest.mark.parametrize("view", [documentation.openapi_json, documentation.docs])
def test_the_documentation_can_only_be_read(view: Any) -> None:
    with pytest.raises(Problem) as refused:
        answered(view, "POST")

    assert refused.value.kind is Kind.METHOD_NOT_ALLOWED
    assert answered(view, "HEAD").status_code == 200


class Page(HTMLParser):
    """The parts of a page that the tests ask about."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def all(self, attribute: str) -> list[str]:
        return [value for name, value in self.attributes if name == attribute]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(answered(documentation.docs).content.decode())


def test_the_page_holds_under_a_policy_that_allows_nothing_but_its_style_sheet(page: Page) -> None:
    policy = answered(documentation.docs)["Content-Security-Policy"]

    assert "default-src 'none'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert not {"script", "style", "img", "iframe", "object"} & set(page.tags)
    assert "script-src" not in policy
    assert not [name for name, _ in page.attributes if name == "style" or name.startswith("on")]
    elsewhere = [
        link for link in page.all("href") if not link.startswith("#") and not re.match("/[^/]|/$", link)
    ]
    assert elsewhere == ["https://jcristharif.com/msgspec/"]


def test_the_page_s_style_sheet_is_ours(page: Page) -> None:
    sheets = [link for link in page.all("href") if link.endswith(".css")]

    assert [re.fullmatch(r"/static/(?:[0-9a-f]+/)?(\w+\.css)", link)[1] for link in sheets] == [
        "reserva.css",
        "api_docs.css",
    ]
    assert finders.find("api_docs.css")


def test_every_link_within_the_page_has_a_target_and_every_target_one_meaning(page: Page) -> None:
    targets = page.all("id")

    assert len(set(targets)) == len(targets)
    assert {link[1:] for link in page.all("href") if link.startswith("#")} <= set(targets)


def test_the_page_describes_every_operation_problem_and_object(page: Page) -> None:
    expected = {operation.id for operation in OPERATIONS} | {kind.slug for kind in Kind}

    assert expected | set(DOCUMENT["components"]["schemas"]) <= set(page.all("id"))


def test_the_page_explains_every_state_of_an_order() -> None:
    assert set(documentation.LIFE) == set(Status)


@pytest.mark.parametrize("view", [documentation.docs, lambda r: documentation.problem(r, "not-found")])
def test_a_page_is_packed_for_who_takes_it_so_and_not_sent_twice(view: Any) -> None:
    plain, packed = answered(view), answered(view, accept_encoding="br, gzip")
    known = answered(view, if_none_match=plain["ETag"])

    assert packed["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.content) == plain.content
    assert len(packed.content) < len(plain.content) / 2
    assert (known.status_code, known.content) == (304, b"")


def test_an_address_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(Resolver404):
        resolve("/api/v1/orderz")
