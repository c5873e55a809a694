"""PostgreSQL decides orders by a function of its own, and no order names a reservation in Redis any more."""

from importlib.resources import files
from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    """Make the function; drop the column."""

    beside_previous_release = "all processes of the release before are stopped first (docs/upgrade.md)"
    dependencies: ClassVar = [("shop", "0005_search_by_staff")]
    operations: ClassVar = [
        migrations.RemoveField("order", "reservation"),
        migrations.RunSQL(
            (files("shop") / "migrations" / "0006_decide.sql").read_text(),
            "DROP FUNCTION shop_decide",
        ),
    ]
