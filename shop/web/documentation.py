"""`/api/openapi.json`, and `/api/docs`: the same document as a page for people, which needs no script."""

import gzip
import hashlib
import re
import shlex
from functools import cache, lru_cache
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from django.conf import settings
from django.template.loader import render_to_string
from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from shop.client import OVERLOADED, REFUSALS, Overloaded, Unavailable
from shop.domain import QUANTITY_MAX, SKU_MAX_LENGTH, Status
from shop.web import examples, openapi, orders, parsing, wheel
from shop.web.content_coding import accepts_gzip
from shop.web.endpoints import ANY_REQUEST, OPERATIONS, SCOPES
from shop.web.explanations import EXPLANATIONS
from shop.web.http import Answer, Request
from shop.web.problems import Kind, Problem, require_method
from shop.web.problems import response as problem_answer

Json = dict[str, Any]

VERSION: Final = "1.0.0"

#: Where pip finds the Python client.
WHEEL: Final = wheel.name(VERSION)

_KINDS: Final = {kind.slug: kind for kind in Kind}

#: The pages load their style sheets and the site's icon and nothing else, and nobody may frame them.
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

#: What each state of an order means, and what may come after it.
LIFE: Final = {
    Status.QUEUED: (
        "The order is recorded and waits for a worker. Nothing is promised yet.",
        "every other state",
    ),
    Status.CONFIRMED: ("Every line was in stock, and the units are this order's own.", "`cancelled`"),
    Status.REJECTED: ("A line was not in stock, or its SKU is unknown, so nothing was taken.", ""),
    Status.FAILED: ("The order could not be worked on, several times over. Its units are free again.", ""),
    Status.CANCELLED: ("The client cancelled it, and its units are free again.", ""),
}


#: What the commands of the page need before them, and what its Python needs.
SHELL: Final = """\
export SHOP=http://127.0.0.1:8000
export API_KEY=...   # printed by make up
export ORDER=...     # an order's id, once you have one"""
PYTHON: Final = """\
import os
import urllib.request
from reserva import Client

SHOP = os.environ["SHOP"]
shop = Client(SHOP, os.environ["API_KEY"])"""


async def openapi_json(request: Request) -> Answer:
    """`GET /api/openapi.json`"""
    require_method(request.method, "GET", "HEAD")
    return Answer(_document_bytes(), headers={"Cache-Control": "no-cache"})


async def docs(request: Request) -> Answer:
    """`GET /api/docs`"""
    return _shown(request, _page())


async def problem(request: Request, slug: str) -> Answer:
    """`GET /api/problems/{type}`"""
    kind = _KINDS.get(slug)
    if kind is None:
        raise Problem(kind=Kind.NOT_FOUND)
    return _shown(request, _problem_page(kind))


async def client(request: Request) -> Answer:
    """`GET /api/reserva-VERSION-py3-none-any.whl`: the Python client, for pip."""
    require_method(request.method, "GET", "HEAD")
    return Answer(wheel.wheel(VERSION), content_type="application/zip", headers={"Cache-Control": "no-cache"})


def _shown(request: Request, page: bytes) -> Answer:
    """A page, packed for who takes it so, and not sent again to who has it."""
    require_method(request.method, "GET", "HEAD")
    tag = f'"{hashlib.blake2b(page, digest_size=12).hexdigest()}"'
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": _POLICY,
        "ETag": tag,
        "Vary": "Accept-Encoding",
    }
    if tag in request.header(b"if-none-match"):
        return Answer(status_code=304, headers=headers)
    if accepts_gzip(request.header(b"accept-encoding")):
        headers["Content-Encoding"] = "gzip"
        page = _packed(page)
    return Answer(page, content_type="text/html; charset=utf-8", headers=headers)


@lru_cache(maxsize=64)
def _packed(page: bytes) -> bytes:
    return gzip.compress(page)


@cache
def _document() -> Json:
    return openapi.document(
        version=VERSION, max_lines=settings.MAX_ORDER_LINES, max_body_bytes=settings.MAX_BODY_BYTES
    )


@cache
def _document_bytes() -> bytes:
    return msgspec.json.encode(_document())


@cache
def _page() -> bytes:
    document = _document()
    groups: dict[str, list[Json]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    return render_to_string(
        "api_docs.html",
        {
            "version": VERSION,
            "wheel": WHEEL,
            "introduction": [_prose(part) for part in document["info"]["description"].split("\n\n")],
            "groups": groups.items(),
            "objects": [_object(name, schema) for name, schema in document["components"]["schemas"].items()],
            "scopes": [(name, _prose(meaning)) for name, meaning in SCOPES.items()],
            "life": [
                (status.value, _prose(meaning), _prose(after)) for status, (meaning, after) in LIFE.items()
            ],
            "shell": SHELL,
            "python": PYTHON,
            "problems": [_problem(kind) for kind in Kind],
            "limits": [(_prose(name), limit) for name, limit in _limits()],
            "patience_s": orders.PATIENCE_S,
        },
    ).encode()


@cache
def _problem_page(kind: Kind) -> bytes:
    answer = problem_answer(examples.problem(kind))
    head = {"Content-Type": answer.content_type, **answer.headers}
    lines = [f"HTTP/1.1 {kind.status} {HTTPStatus(kind.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in head.items()]
    body = msgspec.json.format(answer.content, indent=2).decode()
    return render_to_string(
        "api_problem.html", {**_problem(kind), "example": "\n".join([*lines, "", body])}
    ).encode()


def _problem(kind: Kind) -> Json:
    """What there is to say of a kind of problem."""
    explanation = EXPLANATIONS[kind]
    raised = REFUSALS.get(kind.slug) or (Overloaded if kind.slug in OVERLOADED else Unavailable)
    return {
        "kind": kind,
        "advice": _prose(kind.advice),
        "happened": _prose(explanation.happened),
        "remedy": _prose(explanation.remedy),
        "key": _prose(explanation.key.value),
        "key_in_a_word": explanation.key.name.lower(),
        "again": _prose(explanation.again.value),
        "again_in_a_word": explanation.again.name.lower(),
        "raised": raised.__name__,
        "raised_after_repeating": issubclass(raised, Unavailable),
        "operations": [(o.id, o.summary) for o in OPERATIONS if kind in {*o.problems, *ANY_REQUEST}],
    }


def _limits() -> list[tuple[str, str]]:
    return [
        ("Items in an order", f"1 to {settings.MAX_ORDER_LINES:,}"),
        ("Units in an item", f"1 to {QUANTITY_MAX:,}"),
        ("Characters in a SKU", f"1 to {SKU_MAX_LENGTH}"),
        ("Characters in an idempotency key", f"1 to {parsing.IDEMPOTENCY_KEY_MAX_LENGTH}"),
        ("Bytes in a body", f"{settings.MAX_BODY_BYTES:,}"),
        ("Seconds until all of a body has arrived", f"{settings.BODY_TIMEOUT_S}"),
        (
            "Products on a page",
            f"1 to {parsing.PAGE_LIMIT_MAX}, {parsing.PAGE_LIMIT_DEFAULT} unless said otherwise",
        ),
        ("Seconds of `Prefer: wait`", f"up to {parsing.WAIT_MAX_SECONDS}"),
    ]


def _operation(method: str, path: str, operation: Json) -> Json:
    answers, problems = [], []
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if int(status) < 400:
            answers.append(_answer(status, response, content))
        else:
            problems += [(status, _KINDS[slug]) for slug in content["application/problem+json"]["examples"]]
    body = operation.get("requestBody")
    security = operation["security"]
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "description": _prose(operation["description"]),
        "scopes": [scope for requirement in security for scope in requirement[openapi.SECURITY_SCHEME]],
        "key_needed": bool(security),
        "parameters": [_parameter(parameter) for parameter in operation["parameters"]],
        "body": _type_of(body["content"]["application/json"]["schema"]) if body else None,
        "answers": answers,
        "problems": problems,
        "curl": curl(method, path, operation),
        "python": next(o.python for o in OPERATIONS if o.id == operation["operationId"]).strip(),
    }


def _answer(status: str, response: Json, content: Json) -> Json:
    body: Json = next(iter(content.values()), {})
    return {
        "status": status,
        "description": _prose(response["description"]),
        "headers": list(response["headers"]),
        "body": _type_of(body["schema"]) if body else None,
        "examples": [(name, _pretty(example["value"])) for name, example in body.get("examples", {}).items()],
    }


def _parameter(parameter: Json) -> Json:
    return {
        "name": parameter["name"],
        "place": parameter["in"],
        "required": parameter["required"],
        "type": _type_of(parameter["schema"]),
        "description": _prose(parameter["description"]),
    }


def _object(name: str, schema: Json) -> Json:
    required = schema.get("required", ())
    return {
        "name": name,
        "description": _prose(schema.get("description", "")),
        "values": sorted(schema.get("enum", ())),
        "members": [
            {
                "name": member,
                "required": member in required,
                "type": _type_of(described),
                "description": _prose(described.get("description", "")),
            }
            for member, described in schema.get("properties", {}).items()
        ],
    }


def curl(method: str, path: str, operation: Json) -> str:
    """A command that works after `SHELL`: the required parameters, and the first optional one to show how it is sent."""
    required = [parameter for parameter in operation["parameters"] if parameter["required"]]
    optional = [parameter for parameter in operation["parameters"] if not parameter["required"]]
    headers, query = [], {}
    for parameter in (*required, *optional[:1]):
        match parameter["in"]:
            case "header":
                headers.append(f"{parameter['name']}: {parameter['example']}")
            case "query":
                query[parameter["name"]] = parameter["example"]
            case "path" if parameter["name"] == "id":
                path = path.replace("{id}", "$ORDER")
            case "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(parameter["example"], safe=""))
    words = [f'"$SHOP{path}{"?" + urlencode(query) if query else ""}"']
    if method != "get":
        words[:0] = ["-X", method.upper()]
    lines = [" ".join(["curl", *words])]
    if operation["security"]:
        lines.append('-H "Authorization: Bearer $API_KEY"')
    lines += [f"-H {shlex.quote(header)}" for header in headers]
    if "requestBody" in operation:
        example = operation["requestBody"]["content"]["application/json"]["example"]
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(_pretty(example))}"]
    return " \\\n  ".join(lines)


def _pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _prose(text: str) -> SafeString:
    """The little of Markdown that our descriptions use: paragraphs, and words in backticks."""
    marked_up = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text.strip()))
    return mark_safe(marked_up.replace("\n\n", "<br><br>"))  # noqa: S308 - escaped above


def _type_of(schema: Json) -> SafeString:
    """A JSON Schema in words; what it refers to is a link to the page's own description."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return format_html('<a href="#{}">{}</a>', name, name)
    if "anyOf" in schema:
        return format_html_join(" or ", "{}", ((_type_of(choice),) for choice in schema["anyOf"]))
    if "enum" in schema:
        return format_html_join(" or ", "<code>{}</code>", ((value,) for value in schema["enum"]))
    if schema["type"] == "array":
        return format_html("array of {}{}", _type_of(schema["items"]), _range_of(schema, "Items", " items"))
    word = schema.get("format") or schema["type"]
    return format_html(
        "{}{}{}", word, _range_of(schema, "imum", ""), _range_of(schema, "Length", " characters")
    )


def _range_of(schema: Json, limit: str, unit: str) -> str:
    """The words for `minLength` and `maxLength`, `minItems` and `maxItems`, or `minimum` and `maximum`."""
    least, most = schema.get(f"min{limit}"), schema.get(f"max{limit}")
    if most is not None:
        return f", {least or 0:,} to {most:,}{unit}" if least is not None else f", up to {most:,}{unit}"
    return f", at least {least:,}{unit}" if least is not None else ""
