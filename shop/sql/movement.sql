-- The stock movement a request made.
SELECT sku, delta, reason, created_at FROM shop_stockmovement WHERE request = %(request)s::uuid
