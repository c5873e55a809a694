"""The OpenAPI 3.1 document, put together from the endpoints, the schemas and the problem catalogue."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from shop.web import examples, problems
from shop.web.endpoints import ANY_REQUEST, OPERATIONS, SCOPES, Answer, Operation
from shop.web.parameters import HEADERS, Parameter
from shop.web.problems import Kind
from shop.web.schemas import ProblemDocument

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{name}"
SECURITY_SCHEME: Final = "apiKey"

_DESCRIPTION: Final = """\
Order intake that never oversells: an order is accepted at once, then confirmed or rejected as a whole.

Every answer has an `X-Request-ID`. Every error is `application/problem+json` (RFC 9457): decide by `type`, which is
a relative reference that leads to a page about it from wherever it was met, as the answer's `Link` does.
A method that a path does not have is answered with 405 and `Allow`. Times are RFC 3339 in UTC, and prices are
decimal numbers in strings. Unknown members of a body are refused, and so are members given twice; other query
parameters are ignored. New members may appear in answers at any time.
"""

_SCHEME_DESCRIPTION: Final = """\
An API key belongs to one client and has scopes:

{scopes}

Products can be read with any key.
"""


def document(*, version: str, max_lines: int, max_body_bytes: int) -> Json:
    """The whole document. `max_lines`: items per order; `max_body_bytes`: bytes per request body."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, max_body_bytes)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Reserva", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": _schemas(max_lines),
            "headers": {name: _header(name) for name in HEADERS},
            "securitySchemes": {SECURITY_SCHEME: _security_scheme()},
        },
    }


def _schemas(max_lines: int) -> Json:
    """Those of all bodies. How many items an order may have is a setting, so the type does not know it."""
    answers = [answer.body for operation in OPERATIONS for answer in operation.answers]
    requests = [operation.body for operation in OPERATIONS]
    types = [type_ for type_ in dict.fromkeys([*requests, *answers]) if type_ not in (None, str)]
    _, components = msgspec.json.schema_components([*types, ProblemDocument], ref_template=_REF)
    components["OrderRequest"]["properties"]["items"]["maxItems"] = max_lines
    return components


def _security_scheme() -> Json:
    scopes = "\n".join(f"- `{name}`: {meaning}" for name, meaning in SCOPES.items())
    return {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "API key",
        "description": _SCHEME_DESCRIPTION.format(scopes=scopes),
    }


def _operation(operation: Operation, max_body_bytes: int) -> Json:
    described: Json = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "security": [] if operation.scopes is None else [{SECURITY_SCHEME: list(operation.scopes)}],
        "parameters": [_parameter(parameter) for parameter in operation.parameters],
        "responses": _responses(operation),
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "description": f"At most {max_body_bytes} bytes of JSON in UTF-8.",
            "content": {
                "application/json": {
                    "schema": _schema(operation.body),
                    "example": msgspec.to_builtins(operation.body_example),
                }
            },
        }
    return described


def _parameter(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "description": parameter.description,
        "schema": {**_schema(parameter.type), **parameter.limits},
        "example": parameter.example,
    }


def _responses(operation: Operation) -> Json:
    responses = {str(answer.status): _response(answer) for answer in operation.answers}
    problems = {*operation.problems, *ANY_REQUEST}
    for status in sorted({kind.status for kind in problems}):
        responses[str(status)] = _problem_response([k for k in Kind if k in problems and k.status == status])
    return responses


def _response(answer: Answer) -> Json:
    described: Json = {
        "description": answer.description,
        "headers": _headers(always=answer.always, sometimes=answer.sometimes),
    }
    if answer.body is not None:
        content: Json = {"schema": _schema(answer.body)}
        if answer.examples:
            content["examples"] = {
                name: {"value": msgspec.to_builtins(value)} for name, value in answer.examples.items()
            }
        described["content"] = {answer.media_type: content}
    return described


def _problem_response(kinds: list[Kind]) -> Json:
    """One status, with each kind of problem that has it."""
    only_these = {"type": {"enum": [kind.slug for kind in kinds]}, "status": {"const": kinds[0].status}}
    return {
        "description": "; ".join(kind.title for kind in kinds),
        "headers": _headers(
            always=["Link", *(name for name in HEADERS if all(name in kind.headers for kind in kinds))]
        ),
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {**_schema(ProblemDocument), "properties": only_these},
                "examples": {
                    kind.slug: {
                        "value": msgspec.json.decode(problems.response(examples.problem(kind)).content)
                    }
                    for kind in kinds
                },
            }
        },
    }


def _headers(*, always: Iterable[str] = (), sometimes: Iterable[str] = ()) -> Json:
    required = {name: {**_header(name), "required": True} for name in ("X-Request-ID", *always)}
    return required | {name: {"$ref": f"#/components/headers/{name}"} for name in sometimes}


def _header(name: str) -> Json:
    header = HEADERS[name]
    return {"description": header.description, "schema": header.schema, "example": header.example}


def _schema(type_: Any) -> Json:
    (schema,), _ = msgspec.json.schema_components([type_], ref_template=_REF)
    return schema
