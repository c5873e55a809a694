"""The textbook shop's tables."""

import uuid

from django.db import models


class Product(models.Model):
    """A SKU, and the units of it that are left. The type of `stock` lets PostgreSQL refuse less than none."""

    sku = models.CharField(primary_key=True, max_length=64)
    stock = models.PositiveIntegerField()

    def __str__(self) -> str:
        return self.sku


class Order(models.Model):
    """An order that has ended."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    status = models.CharField(max_length=9)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.id)


class OrderLine(models.Model):
    """So many units of a product in an order."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    quantity = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product_id}"
