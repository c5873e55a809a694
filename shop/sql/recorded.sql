-- What PostgreSQL has decided about orders.
SELECT id, status, updated_at, reservation, reason, fingerprint FROM shop_order WHERE id = ANY(%(ids)s::uuid[])
