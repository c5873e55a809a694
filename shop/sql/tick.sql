-- Counts on in PostgreSQL's history where this is a continuation of `followed`; no row comes back where it is not. One that went
-- back does not count: it would catch up with what Redis has seen. `branch`: begins another one, '' = the same.
INSERT INTO shop_history AS h (is_one, branch, ticks)
SELECT true, %(branch)s::text, 1 WHERE shop_continues(%(followed)s::text)
ON CONFLICT (is_one) DO UPDATE SET ticks = h.ticks + 1, branch = coalesce(nullif(excluded.branch, ''), h.branch)
RETURNING shop_lineage() || ':' || h.branch || ' ' || h.ticks
