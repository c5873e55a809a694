-- Counts on in PostgreSQL's history; which server's history it is, and how far it is now.
INSERT INTO shop_history (is_one, ticks) VALUES (true, 1)
ON CONFLICT (is_one) DO UPDATE SET ticks = shop_history.ticks + 1
RETURNING shop_lineage(), ticks
