-- What PostgreSQL has of orders that have ended.
SELECT id, status, updated_at, reason, fingerprint FROM shop_order WHERE id = ANY(%(ids)s::uuid[])
