"""The indexes that staff's search needs (ARCHITECTURE.md, Note [Books])."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex, GinIndex
from django.db import migrations, models

from shop.migrations._indexes import AddIndexBesideOrders


class Migration(migrations.Migration):
    """Make them while orders flow."""

    atomic = False
    beside_previous_release = "indexes are made concurrently, and ANALYZE makes nobody wait"
    dependencies: ClassVar = [("shop", "0004_order_decided_at")]
    operations: ClassVar = [
        AddIndexBesideOrders(
            "order", models.Index(fields=["status", "-accepted_at"], name="order_by_status")
        ),
        AddIndexBesideOrders(
            "order",
            GinIndex(
                models.Func(
                    models.F("customer"),
                    models.F("reference"),
                    output_field=ArrayField(models.CharField(max_length=255)),
                    template="(ARRAY[%(expressions)s])",
                ),
                condition=models.Q(customer__isnull=False) | models.Q(reference__isnull=False),
                fastupdate=True,
                name="order_by_texts",
            ),
        ),
        AddIndexBesideOrders(
            "stockmovement",
            models.Index(fields=["kind", "id"], condition=~models.Q(kind="sale"), name="movement_by_hand"),
        ),
        AddIndexBesideOrders(
            "stockmovement",
            BrinIndex(fields=["created_at"], autosummarize=True, name="movement_by_time"),
        ),
        # Whether a customer has few orders or many is what decides how they are found.
        migrations.RunSQL("ANALYZE shop_order", migrations.RunSQL.noop),
    ]
