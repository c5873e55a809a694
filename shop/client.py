"""A client of the HTTP API, for asyncio and for plain code.

    async with Client("http://127.0.0.1:8000", api_key) as shop:
        placed = await shop.place_order([("85123A", 6)], key="cart-4711")
        order = await shop.ended(placed.order.id)

    with BlockingClient("http://127.0.0.1:8000", api_key) as shop:
        order = shop.ended(shop.place_order([("85123A", 6)], key="cart-4711").order.id)

Every request may be sent again. When an answer is lost or the shop is away, the same request is repeated with
the same idempotency key, with jitter or after `Retry-After`, until there is an answer or patience runs out.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import count
from time import monotonic
from types import TracebackType
from typing import Concatenate, Final, ParamSpec, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from shop.domain import Status
from shop.http_connection import Answer, Origin, Pool, ProtocolError
from shop.web.schemas import (
    OrderAnswer,
    OrderItem,
    OrderRequest,
    ProblemDocument,
    ProductAnswer,
    ProductPage,
    StockMovementAnswer,
    StockMovementRequest,
)

#: The longest the API holds an answer (`Prefer: wait`), in seconds.
WAIT_MAX_S: Final = 30
#: The longest pause before a request is repeated where the shop does not say, in seconds.
PAUSE_MAX_S: Final = 2.0

_VISIBLE = re.compile(r"[\x21-\x7E]+")
_T = TypeVar("_T")
_P = ParamSpec("_P")


class Unavailable(Exception):
    """No answer for as long as we were ready to wait. What was asked may have happened; ask again."""


class Refused(Exception):
    """The shop will not do what was asked, however often it is asked. `problem` says why, `what` names it."""

    def __init__(self, problem: ProblemDocument, what: str) -> None:
        self.problem = problem
        places = [f"{error.pointer}: {error.detail}" for error in problem.errors or ()]
        why = "; ".join([f"{problem.status} {problem.title}: {problem.detail}", *places])
        super().__init__(f"{what}: {why}")


class Placed(msgspec.Struct, frozen=True):
    """An accepted order. `replayed`: its key was known already, and this is the order it stands for."""

    order: OrderAnswer
    replayed: bool


class Client:
    """The API for asyncio.

    `connections`: requests at the same time at most; further ones wait for their turn. `timeout_s`: for one
    answer. `patience_s`: how long a request is repeated before it ends as `Unavailable`.
    All calls raise `Refused` and `Unavailable`.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        connections: int = 64,
        timeout_s: float = 10.0,
        patience_s: float = 60.0,
    ) -> None:
        self._pool = Pool(Origin.of(url), connections)
        self._authorization = f"Bearer {_visible(api_key, 'an API key')}"
        self._timeout_s = timeout_s
        self._patience_s = patience_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()

    async def place_order(
        self,
        items: Iterable[tuple[str, int]],
        *,
        key: str,
        customer: str | None = None,
        reference: str | None = None,
    ) -> Placed:
        """Place an order of (SKU, quantity) pairs. `key`: its idempotency key; one key is one order."""
        asked = OrderRequest(
            items=[OrderItem(sku, quantity) for sku, quantity in items],
            customer=customer,
            reference=reference,
        )
        answer = await self._ask(
            "POST", "/api/v1/orders", {"Idempotency-Key": _quoted(key)}, msgspec.json.encode(asked)
        )
        order = msgspec.json.decode(answer.body, type=OrderAnswer)
        return Placed(order, answer.headers.get("idempotency-replayed") == "true")

    async def order(self, order_id: str, *, wait_s: int = 0) -> OrderAnswer:
        """The order as it is now, or, if it is queued, as it is after its next change or `wait_s` seconds."""
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        answer = await self._ask("GET", f"/api/v1/orders/{quote(order_id, safe='')}", headers, wait_s=wait_s)
        return msgspec.json.decode(answer.body, type=OrderAnswer)

    async def ended(self, order_id: str, *, within_s: float = 300.0) -> OrderAnswer:
        """The order in its final state; still queued where it has none within `within_s` seconds."""
        deadline = monotonic() + within_s
        while True:
            left_s = max(0, round(deadline - monotonic()))
            order = await self.order(order_id, wait_s=min(left_s, WAIT_MAX_S))
            if order.status is not Status.QUEUED or not left_s:
                return order

    async def cancel(self, order_id: str) -> OrderAnswer:
        """Ask for the order to be cancelled; it may still be queued or confirmed in the answer."""
        answer = await self._ask("POST", f"/api/v1/orders/{quote(order_id, safe='')}/cancel")
        return msgspec.json.decode(answer.body, type=OrderAnswer)

    async def product(self, sku: str) -> ProductAnswer:
        """The product and the units free to sell."""
        answer = await self._ask("GET", f"/api/v1/products/{quote(sku, safe='')}")
        return msgspec.json.decode(answer.body, type=ProductAnswer)

    async def products(
        self, *, q: str = "", limit: int = 100, after: ProductPage | None = None
    ) -> ProductPage:
        """A page of products whose SKU or name holds `q`: the first one, or the one `after` another.

        Raises `ValueError` after the last page.
        """
        target = "/api/v1/products?" + urlencode({"q": q, "limit": limit})
        if after is not None:
            if after.next is None:
                raise ValueError("this was the last page")
            target = self._pool.origin.target(after.next)
        return msgspec.json.decode((await self._ask("GET", target)).body, type=ProductPage)

    async def move_stock(self, sku: str, delta: int, *, reason: str, key: str) -> StockMovementAnswer:
        """Change a product's stock by so many units. `key`: the movement's idempotency key."""
        body = msgspec.json.encode(StockMovementRequest(delta=delta, reason=reason))
        target = f"/api/v1/products/{quote(sku, safe='')}/stock-movements"
        answer = await self._ask("POST", target, {"Idempotency-Key": _quoted(key)}, body)
        return msgspec.json.decode(answer.body, type=StockMovementAnswer)

    async def _ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        wait_s: float = 0,
    ) -> Answer:
        """Send a request until it is answered for good."""
        sent = {"Authorization": self._authorization, **(headers or {})}
        if body:
            sent["Content-Type"] = "application/json"
        give_up_at = monotonic() + self._patience_s
        for tries in count():
            pause_s = random.uniform(0, min(PAUSE_MAX_S, 0.05 * 2 ** min(tries, 10)))
            try:
                answer = await self._pool.ask(method, target, sent, body, timeout_s=self._timeout_s + wait_s)
            except (OSError, EOFError, ProtocolError) as error:
                trouble = f"{type(error).__name__} {error}".strip()
            else:
                if answer.status < 400:
                    return answer
                if answer.status < 500 and answer.status != 429:
                    raise Refused(_problem(answer), f"{method} {target}")
                trouble = f"HTTP {answer.status} {_problem(answer).detail}"
                pause_s = max(pause_s, _retry_after_s(answer))
            if monotonic() + pause_s > give_up_at:
                raise Unavailable(
                    f"{method} {target}: no answer for {self._patience_s:g} s, at last: {trouble}"
                )
            await asyncio.sleep(pause_s)
        raise AssertionError("the loop returns or raises")


def _blocking(
    method: "Callable[Concatenate[Client, _P], Awaitable[_T]]",
) -> "Callable[Concatenate[BlockingClient, _P], _T]":
    def call(client: "BlockingClient", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        async def run() -> _T:
            return await method(client.inner, *args, **kwargs)

        return client.runner.run(run())

    call.__doc__ = method.__doc__
    return call


class BlockingClient:
    """The API for plain code: the calls of `Client`, each returning its result. For one thread at a time."""

    def __init__(self, url: str, api_key: str, *, timeout_s: float = 10.0, patience_s: float = 60.0) -> None:
        self.runner = asyncio.Runner()
        self.inner = Client(url, api_key, connections=1, timeout_s=timeout_s, patience_s=patience_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runner.run(self.inner.__aexit__(kind, error, trace))
        self.runner.close()

    place_order = _blocking(Client.place_order)
    order = _blocking(Client.order)
    ended = _blocking(Client.ended)
    cancel = _blocking(Client.cancel)
    product = _blocking(Client.product)
    products = _blocking(Client.products)
    move_stock = _blocking(Client.move_stock)


def _visible(text: str, what: str) -> str:
    """Text that may stand in a header field: what else it holds could end the field and begin another one."""
    if not _VISIBLE.fullmatch(text):
        raise ValueError(f"{what} must be visible ASCII characters")
    return text


def _quoted(key: str) -> str:
    return '"' + _visible(key, "an idempotency key").replace("\\", r"\\").replace('"', r"\"") + '"'


def _retry_after_s(answer: Answer) -> float:
    """Seconds to wait; the API never sends the other form, a date."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _problem(answer: Answer) -> ProblemDocument:
    """What the shop says is wrong; whatever stands between it and us may have other words."""
    try:
        return msgspec.json.decode(answer.body, type=ProblemDocument)
    except (msgspec.DecodeError, UnicodeDecodeError):
        words = answer.body[:200].decode(errors="replace")
        status = min(max(answer.status, 400), 599)
        return ProblemDocument(type="about:blank", title="no problem document", status=status, detail=words)
