"""PostgreSQL decides orders by a function of its own, and no order names a reservation in Redis any more.

That an order, or a movement that was asked for, is there once is up to small tables of their own.
"""

from importlib.resources import files
from typing import ClassVar

from django.db import migrations, models


#: The server's name for life, and its timeline, which a promotion or a recovery from an archive changes
#: (PostgreSQL's documentation, 25.3.6). The control file tells the timeline only after the next checkpoint.
LINEAGE = """
CREATE FUNCTION shop_lineage() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT (SELECT system_identifier FROM pg_control_system())::text || ':' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
$$
"""

#: Whether this is the server that Redis follows, and at least as far as it was; '' = Redis follows none yet.
CONTINUES = """
CREATE FUNCTION shop_continues(followed text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT followed = '' OR EXISTS (
        SELECT FROM shop_history
        WHERE CASE WHEN followed ~ ' [0-9]{1,18}$' AND split_part(followed, ' ', 1) = shop_lineage() || ':' || branch
                   THEN split_part(followed, ' ', 2)::bigint <= ticks END
    )
$$
"""

IDENTITIES = """
INSERT INTO shop_orderidentity (id, fingerprint, accepted_at) SELECT id, fingerprint, accepted_at FROM shop_order;
INSERT INTO shop_movementrequest (request, movement_id, created_at)
    SELECT request, id, created_at FROM shop_stockmovement WHERE request IS NOT NULL;
"""

#: The key that a table must have which is partitioned by time. It also serves whoever reads orders by time.
BY_TIME = "ALTER TABLE shop_order DROP CONSTRAINT shop_order_pkey, ADD CONSTRAINT shop_order_pkey PRIMARY KEY (accepted_at, id)"
BY_ID = "ALTER TABLE shop_order DROP CONSTRAINT shop_order_pkey, ADD CONSTRAINT shop_order_pkey PRIMARY KEY (id)"


class Migration(migrations.Migration):
    """Make the function and the small tables, which get what there is; drop the column."""

    beside_previous_release = "all processes of the release before are stopped first (docs/upgrade.md)"
    dependencies: ClassVar = [("shop", "0005_search_by_staff")]
    operations: ClassVar = [
        # With a default, so that the way back finds one for the orders that are there.
        migrations.AlterField("order", "reservation", models.CharField(max_length=32, db_default="")),
        migrations.RemoveField("order", "reservation"),
        migrations.CreateModel(
            "History",
            [
                ("is_one", models.BooleanField(default=True, primary_key=True, serialize=False)),
                ("branch", models.CharField(max_length=36, db_default="")),
                ("ticks", models.BigIntegerField(db_default=0)),
            ],
        ),
        migrations.CreateModel(
            "OrderIdentity",
            [
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("fingerprint", models.CharField(max_length=32)),
                ("accepted_at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            "MovementRequest",
            [
                ("request", models.UUIDField(primary_key=True, serialize=False)),
                ("movement_id", models.BigIntegerField()),
                ("created_at", models.DateTimeField()),
            ],
        ),
        migrations.RunSQL(IDENTITIES, migrations.RunSQL.noop),
        migrations.RemoveConstraint("stockmovement", "movement_request_once"),
        migrations.AlterField("order", "accepted_at", models.DateTimeField()),
        migrations.RunSQL(BY_TIME, BY_ID),
        migrations.RunSQL(LINEAGE, "DROP FUNCTION shop_lineage"),
        migrations.RunSQL(CONTINUES, "DROP FUNCTION shop_continues"),
        migrations.RunSQL(
            (files("shop") / "migrations" / "0006_decide.sql").read_text(),
            "DROP FUNCTION shop_decide",
        ),
    ]
