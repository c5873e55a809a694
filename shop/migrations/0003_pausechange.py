import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_append_only_ledger")]

    operations = [
        migrations.CreateModel(
            name="PauseChange",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("part", models.CharField(max_length=16)),
                ("is_paused", models.BooleanField()),
                ("who", models.CharField(max_length=255)),
                ("reason", models.CharField(db_default="", max_length=255)),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={"ordering": ["-id"]},
        ),
    ]
