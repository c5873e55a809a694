"""What the API offers, as data: each endpoint with its parameters, bodies, answers and problems.

`shop.web.openapi` makes the OpenAPI document from it, and the document makes the page at `/api/docs`.
"""

from typing import Any, Final

import msgspec

from shop.web import examples, parameters
from shop.web.parameters import Parameter
from shop.web.problems import Kind
from shop.web.schemas import (
    Health,
    OrderAnswer,
    OrderRequest,
    ProductAnswer,
    ProductPage,
    StockMovementAnswer,
    StockMovementRequest,
)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is no problem. Headers are sent `always` or `sometimes`; examples are bodies by name."""

    status: int
    description: str
    body: Any = None
    media_type: str = "application/json"
    examples: dict[str, Any] = {}
    always: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path. `scopes` that its API key needs: none at all, or no key where it is None.

    `python`: the example of `/api/docs` in Python. They run one after another in one program.
    """

    id: str
    method: str
    path: str
    tag: str
    summary: str
    description: str
    scopes: tuple[str, ...] | None
    answers: tuple[Answer, ...]
    problems: tuple[Kind, ...]
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    body_example: Any = None
    python: str


SCOPES: Final = {"orders": "Place, read and cancel orders.", "stock": "Change the stock of products."}

#: What any request may be refused with before it is known what it asks for.
ANY_REQUEST: Final = (
    Kind.MALFORMED_REQUEST,
    Kind.REQUEST_TIMEOUT,
    Kind.ADDRESS_TOO_LONG,
    Kind.HEAD_TOO_LARGE,
    Kind.UNAVAILABLE,
)
_KEY = (Kind.HTTPS_REQUIRED, Kind.UNAUTHORIZED, Kind.INTERNAL_ERROR, Kind.UNAVAILABLE)
_SCOPED = (*_KEY, Kind.FORBIDDEN)
_BODY = (
    Kind.MALFORMED_JSON,
    Kind.INCOMPLETE_BODY,
    Kind.PAYLOAD_TOO_LARGE,
    Kind.UNSUPPORTED_MEDIA_TYPE,
)
_IDEMPOTENT = (Kind.INVALID_IDEMPOTENCY_KEY, Kind.IDEMPOTENCY_KEY_REUSED)

OPERATIONS: Final = (
    Operation(
        id="placeOrder",
        method="post",
        path="/api/v1/orders",
        tag="Orders",
        summary="Place an order",
        description="The order is recorded and waits for a worker, which confirms or rejects it as a whole. "
        "Sent again with the same key, at any later time, the same order is answered with its present state "
        "and `Idempotency-Replayed: true`. Orders are the same if they mean the same: white space, the order "
        "of members and of items, and split items do not matter. Keys belong to the client: nobody else sees "
        "them. A request that is refused uses up no key. Orders are taken while PostgreSQL is away, too.",
        python="""\
placed = shop.place_order(
    [("MUG-001", 6), ("TEA-MNT-080", 2)],
    key="5f0c7b52-0001",
    customer="17850",
    reference="web-536365",
)
print(placed.order.id, placed.order.status)
""",
        scopes=("orders",),
        parameters=(parameters.IDEMPOTENCY_KEY,),
        body=OrderRequest,
        body_example=examples.ORDER,
        answers=(
            Answer(
                status=202,
                description="Accepted now, or accepted earlier under the same key.",
                body=OrderAnswer,
                examples={"accepted": examples.QUEUED, "replayed": examples.CONFIRMED},
                always=("Location", "Retry-After"),
                sometimes=("Idempotency-Replayed",),
            ),
        ),
        problems=(
            *_SCOPED,
            *_BODY,
            *_IDEMPOTENT,
            Kind.INVALID_ORDER,
            Kind.RATE_LIMITED,
            Kind.QUEUE_FULL,
            Kind.INTAKE_PAUSED,
        ),
    ),
    Operation(
        id="readOrder",
        method="get",
        path="/api/v1/orders/{id}",
        tag="Orders",
        summary="Ask for an order",
        description="What became of an order. An id that does not exist and an order of another client give "
        "the same 404. A queued order comes with `Retry-After`, a final one with an `ETag`.",
        python="""\
order = shop.ended(placed.order.id, within_s=60)
if order.status == "rejected":
    for line in order.reason.lines:
        print(f"only {line.available} of {line.sku} left")
""",
        scopes=("orders",),
        parameters=(parameters.ORDER_ID, parameters.PREFER, parameters.IF_NONE_MATCH),
        answers=(
            Answer(
                status=200,
                description="The order as it is now.",
                body=OrderAnswer,
                examples={
                    "queued": examples.QUEUED,
                    "confirmed": examples.CONFIRMED,
                    "rejected": examples.REJECTED,
                },
                sometimes=("Retry-After", "ETag", "Preference-Applied"),
            ),
            Answer(
                status=304,
                description="The order is still as `If-None-Match` says.",
                always=("ETag",),
                sometimes=("Preference-Applied",),
            ),
        ),
        problems=(*_SCOPED, Kind.NOT_FOUND),
    ),
    Operation(
        id="cancelOrder",
        method="post",
        path="/api/v1/orders/{id}/cancel",
        tag="Orders",
        summary="Cancel an order",
        description="The order becomes `cancelled` and its units return to stock, once, however often this "
        "is repeated. An order that is still queued is cancelled before it is fulfilled or right after, and "
        "answered as it is until then. One that is rejected or fails in the same moment stays so. No body is read.",
        python="""\
order = shop.cancelled(placed.order.id, within_s=60)
print(order.status)
""",
        scopes=("orders",),
        parameters=(parameters.ORDER_ID,),
        answers=(
            Answer(
                status=202,
                description="Cancelled, or about to be.",
                body=OrderAnswer,
                examples={"cancelled": examples.CANCELLED},
                always=("Location", "Retry-After"),
            ),
        ),
        problems=(*_SCOPED, Kind.NOT_FOUND, Kind.NOT_CANCELLABLE),
    ),
    Operation(
        id="listProducts",
        method="get",
        path="/api/v1/products",
        tag="Products",
        summary="List products",
        description="Products in the order of their SKUs, page by page: follow `next` until it is null.",
        python="""\
for product in shop.every_product(q="Fjord"):
    print(product.sku, product.price, product.available)
""",
        scopes=(),
        parameters=(parameters.SEARCH, parameters.LIMIT, parameters.CURSOR),
        answers=(
            Answer(
                status=200,
                description="A page of products.",
                body=ProductPage,
                examples={"a page": examples.PAGE},
            ),
        ),
        problems=(*_KEY, Kind.INVALID_REQUEST),
    ),
    Operation(
        id="readProduct",
        method="get",
        path="/api/v1/products/{sku}",
        tag="Products",
        summary="Ask for a product",
        description="One product and the units of it that are free to sell.",
        python="""\
print(shop.product("MUG-001").available)
""",
        scopes=(),
        parameters=(parameters.SKU,),
        answers=(
            Answer(
                status=200,
                description="The product.",
                body=ProductAnswer,
                examples={"product": examples.PRODUCT},
            ),
        ),
        problems=(*_KEY, Kind.NOT_FOUND),
    ),
    Operation(
        id="moveStock",
        method="post",
        path="/api/v1/products/{sku}/stock-movements",
        tag="Products",
        summary="Change a product's stock",
        description="Adds a difference to the product's stock, during a sale too, and writes it into the "
        "audit. What is promised to orders cannot be taken. The idempotency key works as for orders.",
        python="""\
movement = shop.move_stock(
    "MUG-001", 10, reason="delivery 4711", key="5f0c7b52-0001"
)
print(movement.available)
""",
        scopes=("stock",),
        parameters=(parameters.SKU, parameters.IDEMPOTENCY_KEY),
        body=StockMovementRequest,
        body_example=examples.MOVEMENT,
        answers=(
            Answer(
                status=201,
                description="The movement is in the books, now or since the key was first used.",
                body=StockMovementAnswer,
                examples={"movement": examples.MOVED},
                sometimes=("Idempotency-Replayed",),
            ),
        ),
        problems=(
            *_SCOPED,
            *_BODY,
            *_IDEMPOTENT,
            Kind.NOT_FOUND,
            Kind.INSUFFICIENT_STOCK,
            Kind.INVALID_STOCK_MOVEMENT,
            Kind.RATE_LIMITED,
        ),
    ),
    Operation(
        id="isAlive",
        method="get",
        path="/healthz",
        tag="Operations",
        summary="Is the process up?",
        description="Asks nothing else: for the supervisor that would restart it.",
        python="""\
with urllib.request.urlopen(f"{SHOP}/healthz", timeout=2) as answer:
    print(answer.status)
""",
        scopes=None,
        answers=(Answer(status=200, description="It is.", body=Health, examples={"up": Health()}),),
        problems=(Kind.INTERNAL_ERROR,),
    ),
    Operation(
        id="isReady",
        method="get",
        path="/readyz",
        tag="Operations",
        summary="Can orders be taken and fulfilled?",
        description="Asks Redis, PostgreSQL and whether a worker can take orders. A 503 says which one is missing.",
        python="""\
with urllib.request.urlopen(f"{SHOP}/readyz", timeout=5) as answer:
    print(answer.status)
""",
        scopes=None,
        answers=(Answer(status=200, description="They can.", body=Health, examples={"ready": Health()}),),
        problems=(Kind.INTERNAL_ERROR, Kind.UNAVAILABLE),
    ),
    Operation(
        id="readMetrics",
        method="get",
        path="/metrics",
        tag="Operations",
        summary="Counters and timings",
        description="In the text format of Prometheus.",
        python="""\
with urllib.request.urlopen(f"{SHOP}/metrics", timeout=5) as answer:
    print(answer.read().decode())
""",
        scopes=None,
        answers=(Answer(status=200, description="The metrics.", body=str, media_type="text/plain"),),
        problems=(Kind.INTERNAL_ERROR,),
    ),
)
