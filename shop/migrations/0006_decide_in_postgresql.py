"""PostgreSQL decides orders by a function of its own, and no order names a reservation in Redis any more."""

from importlib.resources import files
from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """Make the function; drop the column."""

    beside_previous_release = "all processes of the release before are stopped first (docs/upgrade.md)"
    dependencies: ClassVar = [("shop", "0005_search_by_staff")]
    operations: ClassVar = [
        # With a default, so that the way back finds one for the orders that are there.
        migrations.AlterField("order", "reservation", models.CharField(max_length=32, db_default="")),
        migrations.RemoveField("order", "reservation"),
        migrations.RunSQL(
            (files("shop") / "migrations" / "0006_decide.sql").read_text(),
            "DROP FUNCTION shop_decide",
        ),
    ]
