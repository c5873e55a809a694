"""Products and their stock over HTTP."""

import asyncio
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from django.db import connection

from shop import keys, movements
from shop.intake import derived_id
from shop.movements import Insufficient, KeyReused, Movement, UnknownSku
from shop.stores import StoreUnavailable, store_faults, web_database, web_redis, web_thread_redis
from shop.web.access import require
from shop.web.http import Answer, Request
from shop.web.parsing import (
    cursor_after,
    parse_cursor,
    parse_idempotency_key,
    parse_limit,
    parse_search,
    parse_stock_movement,
)
from shop.web.problems import Kind, Problem, require_method
from shop.web.schemas import ProductAnswer, ProductPage, StockMovementAnswer, price_text

_json = msgspec.json.Encoder()
_Result = TypeVar("_Result")
_PATH = "/api/v1/products"
#: A counter of ours; somebody may have written something else by hand.
_NUMBER = re.compile(r"-?[0-9]{1,15}")


async def collection(request: Request) -> Answer:
    """`GET /api/v1/products`"""
    require_method(request.method, "GET", "HEAD")
    await require(request, None)
    limit = parse_limit(request.query.get("limit"))
    search = parse_search(request.query.get("q"))
    after = parse_cursor(request.query.get("cursor")) or ""
    pattern = "%" + search.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
    found = await web_database.rows("products", after=after, pattern=pattern, limit=limit + 1)
    items = await _answers(found[:limit])
    following = None
    if len(found) > limit:
        query = {"limit": limit, "cursor": cursor_after(items[-1].sku), **({"q": search} if search else {})}
        following = f"{_PATH}?{urlencode(query)}"
    return _answered(ProductPage(items=items, next=following))


async def detail(request: Request, sku: str) -> Answer:
    """`GET /api/v1/products/{sku}`"""
    require_method(request.method, "GET", "HEAD")
    await require(request, None)
    if "\0" in sku:
        raise Problem(kind=Kind.NOT_FOUND)
    found = await web_database.rows("product", sku=sku)
    if not found:
        raise Problem(kind=Kind.NOT_FOUND)
    return _answered((await _answers(found))[0])


async def stock_movements(request: Request, sku: str) -> Answer:
    """`POST /api/v1/products/{sku}/stock-movements`"""
    require_method(request.method, "POST")
    client = await require(request, "stock")
    key = parse_idempotency_key(request.sent(b"idempotency-key"))
    asked = parse_stock_movement(request.body, request.header(b"content-type"))
    if "\0" in sku:
        raise Problem(kind=Kind.NOT_FOUND)
    outcome = await _in_thread(
        lambda: movements.move(
            client=web_thread_redis(),
            request=derived_id("stock movement", client.name, key),
            by=client.name,
            sku=sku,
            delta=asked.delta,
            reason=asked.reason,
        )
    )
    match outcome:
        case Movement():
            return _moved(outcome)
        case UnknownSku():
            raise Problem(kind=Kind.NOT_FOUND)
        case KeyReused():
            raise Problem(kind=Kind.IDEMPOTENCY_KEY_REUSED)
        case Insufficient(available):
            raise Problem(
                kind=Kind.INSUFFICIENT_STOCK, detail=f"{available} units of this SKU are free to take."
            )


def _moved(movement: Movement) -> Answer:
    answer = StockMovementAnswer(
        id=movement.id,
        sku=movement.sku,
        delta=movement.delta,
        reason=movement.reason,
        created_at=movement.created_at,
        available=movement.available,
    )
    headers = {} if movement.fresh else {"Idempotency-Replayed": "true"}
    return Answer(_json.encode(answer), 201, headers=headers)


async def _answers(found: list[tuple[Any, ...]]) -> list[ProductAnswer]:
    """Products with the units free in Redis; where it is away or has not loaded them, those of the books."""
    counters: list[str | None] = [None] * len(found)
    try:
        if found:
            with store_faults():
                counters = await web_redis().mget([keys.stock(row[0]) for row in found])
    except StoreUnavailable:
        pass  # the books have an answer too, only without what is being reserved this moment
    return [
        _product(
            sku,
            name,
            price,
            max(0, free if counter is None or not _NUMBER.fullmatch(counter) else int(counter)),
        )
        for (sku, name, price, free), counter in zip(found, counters, strict=True)
    ]


def _product(sku: str, name: str, price: Decimal, available: int) -> ProductAnswer:
    return ProductAnswer(sku=sku, name=name, price=price_text(price), available=available)


def _answered(answer: msgspec.Struct) -> Answer:
    return Answer(_json.encode(answer))


async def _in_thread(work: Callable[[], _Result]) -> _Result:
    """Run what blocks in a thread; it leaves no connection to PostgreSQL open behind it."""

    def run() -> _Result:
        try:
            return work()
        finally:
            connection.close()

    return await asyncio.to_thread(run)
