"""Placing, polling and cancelling orders over HTTP."""

import asyncio
import hashlib
import time
import uuid
from datetime import UTC, datetime

import msgspec
from django.conf import settings

from shop import intake, results
from shop.cancellation import Cancellation, request_cancel
from shop.domain import Line, Status
from shop.intake import Accepted, IntakePaused, QueueFull, RateLimited, Replayed, Reused
from shop.results import OrderState
from shop.stores import StoreUnavailable
from shop.web import metrics
from shop.web.access import require
from shop.web.gate import Gate
from shop.web.http import Answer, Request
from shop.web.parsing import parse_idempotency_key, parse_order, parse_prefer_wait
from shop.web.problems import Kind, Problem, require_method
from shop.web.refusals import refusals, too_many
from shop.web.schemas import OrderAnswer, OrderLine
from workers.fail_points import reach

_json = msgspec.json.Encoder()

_MAX_LINES: int = settings.MAX_ORDER_LINES

#: When a client should look again for an order that is queued, in seconds.
RETRY_AFTER = "1"
#: How long the whole intake of an order may take from its arrival, in seconds. The contract allows two.
PATIENCE_S = 1.8

gate = Gate()


async def collection(request: Request) -> Answer:
    """`POST /api/v1/orders`"""
    require_method(request.method, "POST")
    now = asyncio.get_running_loop().time()
    deadline = (request.received_at or now) + PATIENCE_S
    try:
        with gate.passage(now, deadline):
            return await _placed(request, deadline)
    except (StoreUnavailable, TimeoutError):
        metrics.count_refusal("unavailable")
        raise


async def _placed(request: Request, deadline: float) -> Answer:
    client = await require(request, "orders", deadline)
    if wait_s := refusals.wait_s(client.name):
        metrics.count_refusal("rate_limited")
        raise too_many(wait_s)
    try:
        key = parse_idempotency_key(request.sent(b"idempotency-key"))
        asked = parse_order(request.body, request.header(b"content-type"), max_lines=_MAX_LINES)
    except Problem:
        refusals.count(client.name, len(request.body))
        raise
    order = intake.new_order(
        client=client.name,
        key=key,
        lines=[Line(item.sku, item.quantity) for item in asked.items],
        customer=asked.customer,
        reference=asked.reference,
        now_ms=int(time.time() * 1000),
    )
    answer = await intake.accept(order, key, deadline)
    reach("web.before_answer")
    match answer:
        case Accepted(order_id):
            if order_id != order.id:
                order = msgspec.structs.replace(order, id=order_id)
            state = OrderState(
                order=order, status=Status.QUEUED, reason=None, updated_at_ms=order.accepted_at_ms
            )
            return _accepted(state)
        case Replayed(known):
            async with asyncio.timeout_at(deadline):
                found = await results.find(known, client.name)
            if found is None:
                raise Problem(kind=Kind.UNAVAILABLE)  # between its two homes: there the next time
            return _accepted(found, {"Idempotency-Replayed": "true"})
        case Reused():
            raise Problem(kind=Kind.IDEMPOTENCY_KEY_REUSED)
        case RateLimited(wait_ms):
            raise Problem(kind=Kind.RATE_LIMITED, headers={"Retry-After": str(-(-wait_ms // 1000))})
        case QueueFull():
            gate.found_full(asyncio.get_running_loop().time())
            raise Problem(kind=Kind.QUEUE_FULL)
        case IntakePaused():
            raise Problem(kind=Kind.INTAKE_PAUSED)


async def detail(request: Request, order_id: uuid.UUID) -> Answer:
    """`GET /api/v1/orders/{id}`"""
    require_method(request.method, "GET", "HEAD")
    client = await require(request, "orders")
    seconds = parse_prefer_wait(request.sent(b"prefer"))
    if seconds is None:
        state = await results.find(str(order_id), client.name)
    else:
        hold = results.Hold()
        request.when_left(hold.release)
        state = await results.wait(str(order_id), client.name, seconds, hold)
    if state is None:
        raise Problem(kind=Kind.NOT_FOUND)
    headers = {} if seconds is None else {"Preference-Applied": f"wait={seconds}"}
    return _present(request, state, headers)


async def cancel(request: Request, order_id: uuid.UUID) -> Answer:
    """`POST /api/v1/orders/{id}/cancel`"""
    require_method(request.method, "POST")
    client = await require(request, "orders")
    match await request_cancel(str(order_id), client.name):
        case Cancellation.UNKNOWN:
            raise Problem(kind=Kind.NOT_FOUND)
        case Cancellation.REFUSED:
            raise Problem(kind=Kind.NOT_CANCELLABLE)
    state = await results.find(str(order_id), client.name)
    if state is None:
        raise Problem(kind=Kind.UNAVAILABLE)
    return _accepted(state)


def _accepted(state: OrderState, headers: dict[str, str] | None = None) -> Answer:
    answer = _answer(state)
    headers = {"Location": answer.href, "Retry-After": RETRY_AFTER, **(headers or {})}
    return Answer(_json.encode(answer), 202, headers=headers)


def _present(request: Request, state: OrderState, headers: dict[str, str]) -> Answer:
    body = _json.encode(_answer(state))
    if state.status is Status.QUEUED:
        headers["Retry-After"] = RETRY_AFTER
        return Answer(body, headers=headers)
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers |= {"ETag": tag, "Cache-Control": "private, no-cache"}
    if _matches(request.header(b"if-none-match"), tag):
        return Answer(status_code=304, headers=headers)
    return Answer(body, headers=headers)


def _matches(sent_tags: str, tag: str) -> bool:
    """Weak comparison against a list of entity tags (RFC 9110, 13.1.2)."""
    tags = [part.strip().removeprefix("W/") for part in sent_tags.split(",")]
    return tag in tags or tags == ["*"]


def _answer(state: OrderState) -> OrderAnswer:
    order = state.order
    created_at = _moment(order.accepted_at_ms)
    # The clocks of a web process and a worker differ: nothing ends before it began.
    has_changed = state.updated_at_ms > order.accepted_at_ms
    return OrderAnswer(
        id=order.id,
        status=state.status,
        items=[OrderLine(line.sku, line.quantity) for line in order.lines],
        customer=order.customer,
        reference=order.reference,
        created_at=created_at,
        updated_at=_moment(state.updated_at_ms) if has_changed else created_at,
        href=f"/api/v1/orders/{order.id}",
        reason=state.reason or msgspec.UNSET,
    )


def _moment(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1000, UTC)
