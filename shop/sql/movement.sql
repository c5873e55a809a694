-- The stock movement that a request made, under any of its ids.
SELECT request::text, sku, delta, reason, created_at FROM shop_stockmovement WHERE request = ANY(%(requests)s::uuid[])
