"""The books in PostgreSQL: what was ordered, what is on sale, and every change of stock.

PostgreSQL decides: an order is what its row says, and no counter can be overdrawn, whatever Redis holds.
"""

import uuid
from collections.abc import Iterable
from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex, GinIndex
from django.db import models
from django.db.models.functions import Now

from shop.domain import SKU_MAX_LENGTH, TEXT_MAX_LENGTH, Status

#: What a client calls an order by: its customer and its reference, as one array.
ORDER_TEXTS = models.Func(
    models.F("customer"),
    models.F("reference"),
    template="(ARRAY[%(expressions)s])",
    output_field=ArrayField(models.CharField(max_length=TEXT_MAX_LENGTH)),
)


class Product(models.Model):
    """A SKU on sale and its counters, in units.

    `on_sale`: put on sale so far (opening stock plus all stock movements). `confirmed`: in confirmed orders.
    `returned`: given back by cancellations so far. `version` grows with each change of these; by it Redis knows
    what is newer (`shop.stock`).
    """

    sku = models.CharField(primary_key=True, max_length=SKU_MAX_LENGTH, db_collation="C")
    name = models.CharField(max_length=TEXT_MAX_LENGTH)
    price = models.DecimalField(max_digits=14, decimal_places=4)
    on_sale = models.BigIntegerField(db_default=0)
    confirmed = models.BigIntegerField(db_default=0)
    returned = models.BigIntegerField(db_default=0)
    version = models.BigIntegerField(db_default=1)
    changed_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        ordering: ClassVar = ["sku"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(confirmed__gte=0, confirmed__lte=models.F("on_sale")),
                name="product_not_oversold",
            )
        ]

    def __str__(self) -> str:
        return self.sku


class Order(models.Model):
    """An order that has ended. Orders still queued live in Redis only.

    Django needs one column that tells rows apart. In PostgreSQL the primary key is (accepted_at, id), as a table partitioned
    by time needs it, and no index begins with the id: orders are found by it through `OrderIdentity` (`with_ids`).

    `updated_at`: when its present status was decided. `decided_at`: of a cancelled order, when it was confirmed; None for
    one that was cancelled while it was queued.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    client = models.CharField(max_length=64)
    status = models.CharField(max_length=9, choices=[(s.value, s.value) for s in Status])
    customer = models.CharField(max_length=TEXT_MAX_LENGTH, null=True)
    reference = models.CharField(max_length=TEXT_MAX_LENGTH, null=True)
    fingerprint = models.CharField(max_length=32)
    reason = models.JSONField(null=True)
    accepted_at = models.DateTimeField()
    updated_at = models.DateTimeField(db_default=Now())
    decided_at = models.DateTimeField(null=True)

    class Meta:
        # What staff searches by. Paid with each order, so no more than this: Note [Books].
        indexes: ClassVar = [
            models.Index(fields=["status", "-accepted_at"], name="order_by_status"),
            # One for both, and filled in bulk: what an order would feel is an entry in the middle of an index for each.
            GinIndex(
                ORDER_TEXTS,
                condition=models.Q(customer__isnull=False) | models.Q(reference__isnull=False),
                fastupdate=True,
                name="order_by_texts",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)


class OrderIdentity(models.Model):
    """That an order is there, once: of two who write it, this table's primary key lets one.

    Small, and never partitioned: orders themselves may be moved away by time, and their ids stay taken.
    """

    id = models.UUIDField(primary_key=True)
    fingerprint = models.CharField(max_length=32)
    accepted_at = models.DateTimeField()

    def __str__(self) -> str:
        return str(self.id)


def with_ids(orders: models.QuerySet[Order], ids: Iterable[Any]) -> models.QuerySet[Order]:
    """Those of these orders that have one of the ids."""
    same = {"pk": models.OuterRef("pk"), "accepted_at": models.OuterRef("accepted_at")}
    return orders.filter(models.Exists(OrderIdentity.objects.filter(pk__in=list(ids), **same)))


class OrderLine(models.Model):
    """One SKU of an order. No foreign keys: an order may name a SKU that does not exist, and is rejected."""

    pk = models.CompositePrimaryKey("order_id", "position")
    order = models.ForeignKey(
        Order, on_delete=models.DO_NOTHING, related_name="lines", db_constraint=False, db_index=False
    )
    position = models.IntegerField()
    sku = models.CharField(max_length=SKU_MAX_LENGTH, db_collation="C")
    quantity = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.quantity} x {self.sku}"


class StockMovement(models.Model):
    """One change of a SKU's stock, never edited and never deleted (a trigger refuses it).

    `request`: for movements asked for through the API, the id derived from client and idempotency key.
    """

    class Kind(models.TextChoices):
        """Why stock changed."""

        OPENING = "opening"
        ADJUSTMENT = "adjustment"
        SALE = "sale"
        CANCELLATION = "cancellation"

    id = models.BigAutoField(primary_key=True)
    sku = models.CharField(max_length=SKU_MAX_LENGTH, db_collation="C")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    delta = models.BigIntegerField()
    order_id = models.UUIDField(null=True)
    request = models.UUIDField(null=True)
    client = models.CharField(max_length=64, db_default="")
    reason = models.CharField(max_length=TEXT_MAX_LENGTH, db_default="")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["sku", "id"], name="movement_by_sku"),
            # Those that are not sales are few, and made by hand.
            models.Index(fields=["kind", "id"], condition=~models.Q(kind="sale"), name="movement_by_hand"),
            # An order's movements are found by when it was decided: by its id would be an entry for each line.
            BrinIndex(fields=["created_at"], autosummarize=True, name="movement_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.delta:+d} {self.sku} ({self.kind})"


class MovementRequest(models.Model):
    """That a movement was made for a request, once: of two who write it, this table's primary key lets one.

    Small, as `OrderIdentity` is, so that movements themselves may be moved away by time.
    """

    request = models.UUIDField(primary_key=True)
    movement_id = models.BigIntegerField()
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return str(self.request)


class PauseChange(models.Model):
    """One pause or resumption of a part of the system (`shop.pauses`): who, when, why."""

    part = models.CharField(max_length=16)
    is_paused = models.BooleanField()
    who = models.CharField(max_length=TEXT_MAX_LENGTH)
    reason = models.CharField(max_length=TEXT_MAX_LENGTH, db_default="")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"{self.part} {'paused' if self.is_paused else 'resumed'} by {self.who}"


class History(models.Model):
    """How far PostgreSQL's history is: one row, counted on by each sweep (`shop.continuity`).

    `branch`: another one after each recovery, so that a server whose place was taken is never followed again.
    """

    is_one = models.BooleanField(primary_key=True, default=True)
    branch = models.CharField(max_length=36, db_default="")
    ticks = models.BigIntegerField(db_default=0)

    def __str__(self) -> str:
        return f"{self.ticks} ticks"


class ApiKey(models.Model):
    """An API key, by its SHA-256; the key itself is stored nowhere. `client` owns the orders made with it."""

    digest = models.CharField(primary_key=True, max_length=64)
    client = models.CharField(max_length=64, db_index=True)
    scopes = ArrayField(models.CharField(max_length=16))
    created_at = models.DateTimeField(db_default=Now())
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.client} ({', '.join(self.scopes)})"
