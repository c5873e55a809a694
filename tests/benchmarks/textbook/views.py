"""Placing an order and asking for it."""

import json
import uuid

import redis
from celery.result import AsyncResult
from django.conf import settings
from django.http import HttpRequest, HttpResponseBadRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_GET, require_POST

from tests.benchmarks.textbook import tasks

KEY_TTL_S = 86_400

_redis = redis.Redis.from_url(f"{settings.REDIS_URL}/{settings.KEYS_DATABASE}", decode_responses=True)
_task = getattr(tasks, settings.ORDER_TASK)


@require_POST
def place(request: HttpRequest) -> HttpResponseBase:
    """Check the order, claim its idempotency key, put it on the queue."""
    key = request.headers.get("Idempotency-Key")
    try:
        items = json.loads(request.body)["items"]
        is_order = bool(items) and all(
            isinstance(item["sku"], str) and isinstance(item["quantity"], int) and item["quantity"] > 0
            for item in items
        )
    except (ValueError, KeyError, TypeError):
        is_order = False
    if not key or not is_order:
        return HttpResponseBadRequest("no order, or no Idempotency-Key")
    order_id = str(uuid.uuid4())
    if not _redis.set(f"idempotency:{key}", order_id, nx=True, ex=KEY_TTL_S):
        return _accepted(str(_redis.get(f"idempotency:{key}")))
    _task.apply_async((order_id, items), task_id=order_id)
    return _accepted(order_id)


def _accepted(order_id: str) -> HttpResponseBase:
    return JsonResponse({"id": order_id, "status": "queued", "href": f"/orders/{order_id}"}, status=202)


@require_GET
def status(request: HttpRequest, order_id: uuid.UUID) -> HttpResponseBase:
    """What became of an order, from the result backend."""
    result = AsyncResult(str(order_id), app=tasks.app)
    if not result.successful():
        return JsonResponse({"id": str(order_id), "status": "failed" if result.failed() else "queued"})
    return JsonResponse({"id": str(order_id), "status": result.result or "confirmed"})
