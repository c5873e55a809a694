-- The stock movement that a request made, under any of its ids.
SELECT r.request::text, m.sku, m.delta, m.reason, m.created_at
FROM shop_movementrequest AS r JOIN shop_stockmovement AS m ON m.id = r.movement_id AND m.created_at = r.created_at
WHERE r.request = ANY(%(requests)s::uuid[])
