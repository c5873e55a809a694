"""The ledger of stock movements only grows: PostgreSQL refuses to edit or delete a row of it, whoever asks."""

from typing import ClassVar

from django.db import migrations

REFUSE = """
CREATE FUNCTION shop_refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'stock movements are never changed or deleted: write a new one';
END $$;
CREATE TRIGGER shop_stockmovement_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON shop_stockmovement
    FOR EACH STATEMENT EXECUTE FUNCTION shop_refuse_ledger_change();
"""
UNDO = """
DROP TRIGGER shop_stockmovement_append_only ON shop_stockmovement;
DROP FUNCTION shop_refuse_ledger_change();
"""


class Migration(migrations.Migration):
    """Guard the ledger."""

    dependencies: ClassVar = [("shop", "0001_initial")]
    operations: ClassVar = [migrations.RunSQL(REFUSE, UNDO)]
