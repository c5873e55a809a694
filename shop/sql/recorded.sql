-- What PostgreSQL has decided about orders.
SELECT id, status, reservation, reason FROM shop_order WHERE id = ANY(%(ids)s::uuid[])
