"""A client of the HTTP API, for plain code and for asyncio.

>>> with Client(url, api_key) as shop:
...     placed = shop.place_order([("MUG-001", 6), ("TEA-MNT-080", 2)], key="cart-4711")
...     order = shop.ended(placed.order.id)
>>> order.status
<Status.CONFIRMED: 'confirmed'>

>>> async def buy():
...     async with AsyncClient(url, api_key) as shop:
...         placed = await shop.place_order([("MUG-001", 6)], key="cart-4712")
...         return await shop.ended(placed.order.id)
>>> asyncio.run(buy()).status
<Status.CONFIRMED: 'confirmed'>

Every request may be sent again. When an answer is lost or the shop is away, the same request is repeated with
the same idempotency key, with jitter or after `Retry-After`, until there is an answer or patience runs out.
Whatever then goes wrong is a `ReservaError`: `Refused` where the answer was no, `Unavailable` where there was none.
"""

import asyncio
import random
import re
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from itertools import count
from time import monotonic
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from shop.domain import ReasonCode, Status
from shop.http_connection import Answer, Origin, Pool, ProtocolError
from shop.web.schemas import (
    FieldError,
    OrderAnswer,
    OrderItem,
    OrderRequest,
    ProblemDocument,
    ProductAnswer,
    ProductPage,
    StockMovementAnswer,
    StockMovementRequest,
)

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "Client",
    "FieldError",
    "InsufficientStock",
    "Invalid",
    "KeyReused",
    "NotCancellable",
    "NotFound",
    "OrderAnswer",
    "Overloaded",
    "Placed",
    "ProblemDocument",
    "ProductAnswer",
    "ReasonCode",
    "Refused",
    "ReservaError",
    "Status",
    "StockMovementAnswer",
    "Unavailable",
]

#: The longest the API holds an answer (`Prefer: wait`), in seconds.
WAIT_MAX_S: Final = 30
#: The longest pause before a request is repeated where the shop does not say, in seconds.
PAUSE_MAX_S: Final = 2.0

_VISIBLE = re.compile(r"[\x21-\x7E]+")
_T = TypeVar("_T")
_P = ParamSpec("_P")


class ReservaError(Exception):
    """A call that has no good answer. `problem`: what the shop said last, None where it said nothing.

    `request_id`: the `X-Request-ID` under which the shop's logs have the request.
    """

    problem: ProblemDocument | None
    request_id: str


class Unavailable(ReservaError):
    """No answer for as long as we were ready to wait. What was asked may have happened; ask again, with the same key."""

    def __init__(self, words: str, problem: ProblemDocument | None = None, request_id: str = "") -> None:
        self.problem = problem
        self.request_id = request_id
        super().__init__(words)


class Overloaded(Unavailable):
    """The shop was there and took no more for now (`rate-limited`, `queue-full`, `intake-paused`).

    Ask again later, with the same key.
    """


class Refused(ReservaError):
    """The shop will not do what was asked, however often it is asked. `problem` says why, `what` names it."""

    problem: ProblemDocument

    def __init__(self, problem: ProblemDocument, what: str, request_id: str = "") -> None:
        self.problem = problem
        self.request_id = request_id
        places = [f"{error.pointer}: {error.detail}" for error in self.errors]
        why = "; ".join([f"{problem.status} {problem.title}: {problem.detail}", *places])
        super().__init__(f"{what}: {why}" + (f" (request {request_id})" if request_id else ""))

    @property
    def errors(self) -> list[FieldError]:
        """Each bad place of the body that was sent."""
        return self.problem.errors or []


class Invalid(Refused):
    """The request is not one that the API knows: the program that made it has to be corrected."""


class AccessDenied(Refused):
    """The API key is unknown, revoked, or without the scope that is needed."""


class NotFound(Refused):
    """There is no such thing, or none that belongs to this client."""


class KeyReused(Refused):
    """The idempotency key stands for something else, which is untouched."""


class NotCancellable(Refused):
    """The order was rejected or failed: it holds no units."""


class InsufficientStock(Refused):
    """The movement would take units that are promised to orders."""


#: Problem types of a shop that is there and takes no more for now.
OVERLOADED: Final = frozenset({"rate-limited", "queue-full", "intake-paused"})
#: What to raise for which problem type; for those that are not here, the request is repeated.
REFUSALS: Final[Mapping[str, type[Refused]]] = {
    "malformed-request": Invalid,
    "address-too-long": Invalid,
    "head-too-large": Invalid,
    "malformed-json": Invalid,
    "invalid-idempotency-key": Invalid,
    "invalid-request": Invalid,
    "incomplete-body": Invalid,
    "method-not-allowed": Invalid,
    "payload-too-large": Invalid,
    "unsupported-media-type": Invalid,
    "invalid-order": Invalid,
    "invalid-stock-movement": Invalid,
    "unauthorized": AccessDenied,
    "forbidden": AccessDenied,
    "https-required": AccessDenied,
    "not-found": NotFound,
    "idempotency-key-reused": KeyReused,
    "not-cancellable": NotCancellable,
    "insufficient-stock": InsufficientStock,
}
#: A request that was too slow, and too many requests: the same request may have a good answer the next time.
_REPEATED: Final = {408, 429}


class Placed(msgspec.Struct, frozen=True):
    """An accepted order. `replayed`: its key was known already, and this is the order it stands for."""

    order: OrderAnswer
    replayed: bool


class AsyncClient:
    """The API for asyncio.

    `connections`: requests at the same time at most; further ones wait for their turn. `timeout_s`: for one
    answer. `patience_s`: for a whole call, with all its repetitions, after which it ends as `Unavailable`.
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
        await self.close()

    async def close(self) -> None:
        """Close all idle connections."""
        self._pool.close()

    async def place_order(
        self,
        items: Iterable[tuple[str, int]],
        *,
        key: str,
        customer: str | None = None,
        reference: str | None = None,
    ) -> Placed:
        """Place an order of (SKU, quantity) pairs. `key`: its idempotency key; one key is one order.

        Keep the key with your own record of the order before you call, and use it for every further try.

        >>> placed = shop.place_order([("MUG-001", 6)], key="cart-4713", reference="web-536365")
        >>> again = shop.place_order([("MUG-001", 6)], key="cart-4713", reference="web-536365")
        >>> again.replayed, again.order.id == placed.order.id
        (True, True)
        """
        asked = OrderRequest(
            items=[OrderItem(sku, quantity) for sku, quantity in items],
            customer=customer,
            reference=reference,
        )
        order, headers = await self._ask(
            OrderAnswer,
            "POST",
            "/api/v1/orders",
            {"Idempotency-Key": _quoted(key)},
            msgspec.json.encode(asked),
        )
        return Placed(order, headers.get("idempotency-replayed") == "true")

    async def order(self, order_id: str, *, wait_s: int = 0) -> OrderAnswer:
        """The order as it is now, or, if it is queued, as it is after its next change or `wait_s` seconds.

        >>> shop.order("0b8f6f0e-5f0c-8d1e-9a55-3f2f6c1f9d10")
        Traceback (most recent call last):
        shop.client.NotFound: GET /api/v1/orders/0b8f6f0e-5f0c-8d1e-9a55-3f2f6c1f9d10: 404 Not found: ...
        """
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        target = f"/api/v1/orders/{quote(order_id, safe='')}"
        return (await self._ask(OrderAnswer, "GET", target, headers, wait_s=wait_s))[0]

    async def ended(self, order_id: str, *, within_s: float = 300.0) -> OrderAnswer:
        """The order in its final state; still queued where it has none within `within_s` seconds.

        >>> placed = shop.place_order([("RADIO-FM2", 13)], key="cart-4714")
        >>> order = shop.ended(placed.order.id)
        >>> order.status, order.reason.code
        (<Status.REJECTED: 'rejected'>, <ReasonCode.INSUFFICIENT_STOCK: 'insufficient_stock'>)
        >>> order.reason.lines
        (LineShortage(sku='RADIO-FM2', requested=13, available=12),)
        """
        deadline = monotonic() + within_s
        while True:
            left_s = max(0, round(deadline - monotonic()))
            order = await self.order(order_id, wait_s=min(left_s, WAIT_MAX_S))
            if order.status is not Status.QUEUED or not left_s:
                return order

    async def cancel(self, order_id: str) -> OrderAnswer:
        """Ask for the order to be cancelled; it may still be queued or confirmed in the answer."""
        target = f"/api/v1/orders/{quote(order_id, safe='')}/cancel"
        return (await self._ask(OrderAnswer, "POST", target))[0]

    async def cancelled(self, order_id: str, *, within_s: float = 300.0) -> OrderAnswer:
        """Cancel the order and wait for that: it is cancelled, or was rejected before the wish came.

        Still queued or confirmed where neither has happened within `within_s` seconds; then the wish stands.

        >>> placed = shop.place_order([("TEA-MNT-080", 2)], key="cart-4715")
        >>> shop.cancelled(placed.order.id).status
        <Status.CANCELLED: 'cancelled'>
        """
        deadline = monotonic() + within_s
        order = await self.cancel(order_id)
        for tries in count():
            left_s = deadline - monotonic()
            if order.status not in {Status.QUEUED, Status.CONFIRMED} or left_s <= 0:
                break
            await asyncio.sleep(min(left_s, _pause_s(tries)))
            order = await self.order(order_id)
        return order

    async def product(self, sku: str) -> ProductAnswer:
        """The product and the units free to sell.

        >>> shop.product("RADIO-FM2").available
        12
        """
        return (await self._ask(ProductAnswer, "GET", f"/api/v1/products/{quote(sku, safe='')}"))[0]

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
        return (await self._ask(ProductPage, "GET", target))[0]

    async def every_product(self, *, q: str = "", page_size: int = 100) -> AsyncIterator[ProductAnswer]:
        """All products whose SKU or name holds `q`, in the order of their SKUs, fetched page by page."""
        page = await self.products(q=q, limit=page_size)
        for product in page.items:
            yield product
        while page.next is not None:
            page = await self.products(after=page)
            for product in page.items:
                yield product

    async def move_stock(self, sku: str, delta: int, *, reason: str, key: str) -> StockMovementAnswer:
        """Change a product's stock by so many units. `key`: the movement's idempotency key.

        >>> shop.move_stock("BAG-PACK-20", 10, reason="delivery", key="delivery-4711").available
        65
        >>> shop.move_stock("BAG-PACK-20", -66, reason="damaged", key="write-off-12")
        Traceback (most recent call last):
        shop.client.InsufficientStock: POST ...: 409 Insufficient stock: 65 units of this SKU are free to take...
        """
        body = msgspec.json.encode(StockMovementRequest(delta=delta, reason=reason))
        target = f"/api/v1/products/{quote(sku, safe='')}/stock-movements"
        headers = {"Idempotency-Key": _quoted(key)}
        return (await self._ask(StockMovementAnswer, "POST", target, headers, body))[0]

    async def _ask(
        self,
        kind: type[_T],
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        wait_s: float = 0,
    ) -> tuple[_T, Mapping[str, str]]:
        """Send a request until it is answered for good. The answer's body and its headers."""
        request_id = f"{random.getrandbits(128):032x}"
        sent = {"Authorization": self._authorization, "X-Request-ID": request_id, **(headers or {})}
        if body:
            sent["Content-Type"] = "application/json"
        trouble: _Trouble | None = None
        patience_s = self._patience_s + wait_s
        give_up_at = monotonic() + patience_s
        try:
            async with asyncio.timeout(patience_s) as limit:
                for tries in count():
                    reply = await self._try(kind, method, target, sent, body, self._timeout_s + wait_s)
                    if not isinstance(reply, _Trouble):
                        return reply
                    trouble = reply
                    pause_s = _pause_s(tries) + trouble.retry_after_s
                    if monotonic() + pause_s > give_up_at:
                        break
                    await asyncio.sleep(pause_s)
        except TimeoutError:
            if not limit.expired():
                raise
        words, problem = (trouble.words, trouble.problem) if trouble else ("nothing came", None)
        error = Overloaded if problem and _slug(problem) in OVERLOADED else Unavailable
        raise error(
            f"{method} {target}: no answer for {patience_s:g} s, at last: {words} (request {request_id})",
            problem,
            request_id,
        )

    async def _try(
        self,
        kind: type[_T],
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        timeout_s: float,
    ) -> "tuple[_T, Mapping[str, str]] | _Trouble":
        """Send a request once: its answer, or why it should be sent again. Raises `Refused`."""
        try:
            answer = await self._pool.ask(method, target, headers, body, timeout_s=timeout_s)
        except (OSError, EOFError, ProtocolError) as error:
            return _Trouble(f"{type(error).__name__} {error}".strip())
        if answer.status < 300:
            try:
                return msgspec.json.decode(answer.body, type=kind), answer.headers
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                return _Trouble(f"HTTP {answer.status} whose body is not what was asked for: {error}")
        problem = _problem(answer)
        if answer.status < 500 and answer.status not in _REPEATED:
            refusal = REFUSALS.get(_slug(problem), Refused)
            raise refusal(problem, f"{method} {target}", answer.headers.get("x-request-id", ""))
        return _Trouble(f"HTTP {answer.status} {problem.detail}", problem, _retry_after_s(answer))


def _blocking(
    method: Callable[Concatenate[AsyncClient, _P], Coroutine[Any, Any, _T]],
) -> "Callable[Concatenate[Client, _P], _T]":
    def call(client: "Client", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return client.run(method(client.inner, *args, **kwargs))

    call.__doc__ = method.__doc__
    return call


class Client:
    """The API for plain code: the calls of `AsyncClient`, each returning its result.

    Threads may share one, and then share its connections. A process that forks makes one in each child.
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
        self.inner = AsyncClient(
            url, api_key, connections=connections, timeout_s=timeout_s, patience_s=patience_s
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reserva-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; calls under way end as `Unavailable`."""
        if not self._loop.is_closed():
            self.run(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self.inner.close()

    def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        """The result of a call of `inner`, waited for."""
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise Unavailable("the client was closed while it waited for an answer") from None
        except BaseException:
            future.cancel()  # Ctrl-C: nobody waits for the answer any more
            raise

    def every_product(self, *, q: str = "", page_size: int = 100) -> Iterator[ProductAnswer]:
        """All products whose SKU or name holds `q`, in the order of their SKUs, fetched page by page.

        >>> [product.sku for product in shop.every_product(q="Fjord")]
        ['BOWL-140', 'MUG-001', 'MUG-002', 'MUG-SET4', 'PLATE-270']
        """
        page = self.products(q=q, limit=page_size)
        yield from page.items
        while page.next is not None:
            page = self.products(after=page)
            yield from page.items

    place_order = _blocking(AsyncClient.place_order)
    order = _blocking(AsyncClient.order)
    ended = _blocking(AsyncClient.ended)
    cancel = _blocking(AsyncClient.cancel)
    cancelled = _blocking(AsyncClient.cancelled)
    product = _blocking(AsyncClient.product)
    products = _blocking(AsyncClient.products)
    move_stock = _blocking(AsyncClient.move_stock)


class _Trouble(msgspec.Struct, frozen=True):
    """Why a request is to be sent again, and after how many seconds at the earliest."""

    words: str
    problem: ProblemDocument | None = None
    retry_after_s: float = 0.0


def _pause_s(tries: int) -> float:
    """Seconds before the next try, with jitter so that a crowd does not come back at once."""
    return random.uniform(0, min(PAUSE_MAX_S, 0.05 * 2 ** min(tries, 10)))


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


def _slug(problem: ProblemDocument) -> str:
    """The problem's type, whether it stands there alone or at the end of an address."""
    return problem.type.rsplit("/", 1)[-1]
