"""When a cancelled order had its end before that; nobody but `cancel.sql` writes it."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """Add a column that processes of the release before leave empty."""

    dependencies: ClassVar = [("shop", "0003_pausechange")]
    operations: ClassVar = [
        migrations.AlterModelOptions("apikey", {"verbose_name": "API key"}),
        migrations.AddField("order", "decided_at", models.DateTimeField(null=True)),
    ]
