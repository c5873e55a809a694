"""Products and their stock over HTTP."""

import asyncio
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlencode

import msgspec
from django.db import connection

from shop import movements, offers
from shop.intake import derived_id, ids_before
from shop.movements import Insufficient, KeyReused, Movement, UnknownSku
from shop.offers import Offer
from shop.stores import web_thread_redis
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
from shop.web.refusals import refusals, too_many
from shop.web.schemas import ProductAnswer, ProductPage, StockMovementAnswer, price_text

_json = msgspec.json.Encoder()
_Result = TypeVar("_Result")
_PATH = "/api/v1/products"


async def collection(request: Request) -> Answer:
    """`GET /api/v1/products`"""
    require_method(request.method, "GET", "HEAD")
    await require(request, None)
    limit = parse_limit(request.query.get("limit"))
    search = parse_search(request.query.get("q"))
    after = parse_cursor(request.query.get("cursor")) or ""
    found = await offers.listed(search=search, after=after, limit=limit + 1)
    items = [_product(offer) for offer in found[:limit]]
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
    found = await offers.find(sku)
    if found is None:
        raise Problem(kind=Kind.NOT_FOUND)
    return _answered(_product(found))


async def stock_movements(request: Request, sku: str) -> Answer:
    """`POST /api/v1/products/{sku}/stock-movements`"""
    require_method(request.method, "POST")
    client = await require(request, "stock")
    if wait_s := refusals.wait_s(client.name):
        raise too_many(wait_s)
    try:
        key = parse_idempotency_key(request.sent(b"idempotency-key"))
        asked = parse_stock_movement(request.body, request.header(b"content-type"))
    except Problem:
        refusals.count(client.name, len(request.body))
        raise
    if "\0" in sku:
        raise Problem(kind=Kind.NOT_FOUND)
    of_key = ("stock movement", client.name, key)
    outcome = await _in_thread(
        lambda: movements.move(
            client=web_thread_redis(),
            request=derived_id(*of_key),
            ids_before=ids_before(*of_key),
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


def _product(offer: Offer) -> ProductAnswer:
    return ProductAnswer(
        sku=offer.sku, name=offer.name, price=price_text(offer.price), available=offer.available
    )


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
