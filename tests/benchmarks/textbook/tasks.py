"""The textbook shop's Celery application and its two tasks."""

import os
from collections import Counter
from contextlib import ExitStack
from typing import Any

import redis
from celery import Celery
from django.conf import settings
from django.db import transaction

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.benchmarks.textbook.settings")

#: A lock outlives its order by no more than this.
LOCK_TTL_S = 5
#: Whoever waits for a lock looks again after so long. redis-py's own tenth of a second costs a hot SKU a tenth of its
#: orders; 2 to 20 ms do equally well, and 20 ms ask Redis least.
LOCK_SLEEP_S = 0.02

app = Celery("textbook")
app.config_from_object("django.conf:settings", namespace="CELERY")
if settings.KEEP_CONNECTIONS:
    app.conf.update(CELERY_DB_REUSE_MAX=100_000)


_redis = redis.Redis.from_url(f"{settings.REDIS_URL}/{settings.LOCKS_DATABASE}")


@app.task
def do_nothing(order_id: str, items: list[dict[str, Any]]) -> None:
    """Fulfil no order."""


@app.task
def fulfil_order(order_id: str, items: list[dict[str, Any]]) -> str:
    """Take the stock of an order and store it, under a lock for each SKU. Returns its status."""
    units: Counter[str] = Counter()
    for item in items:
        units[item["sku"]] += item["quantity"]
    with ExitStack() as locks:
        for sku in sorted(units):
            locks.enter_context(_redis.lock(f"lock:{sku}", timeout=LOCK_TTL_S, sleep=LOCK_SLEEP_S))
        return _fulfil(order_id, units)


@transaction.atomic
def _fulfil(order_id: str, units: Counter[str]) -> str:
    from tests.benchmarks.textbook.models import Order, OrderLine, Product

    if known := Order.objects.filter(id=order_id).first():
        return known.status
    products = list(Product.objects.select_for_update().filter(sku__in=units).order_by("sku"))
    enough = len(products) == len(units) and all(product.stock >= units[product.sku] for product in products)
    order = Order.objects.create(id=order_id, status="confirmed" if enough else "rejected")
    if enough:
        for product in products:
            product.stock -= units[product.sku]
            product.save(update_fields=["stock"])
        OrderLine.objects.bulk_create(
            OrderLine(order=order, product=product, quantity=units[product.sku]) for product in products
        )
    return order.status
