-- One snapshot for loading SKUs into Redis: their levels, and which of the open reservations PostgreSQL counts already.
SELECT 'level' AS row, sku AS id, version, on_sale + returned AS units, on_sale - confirmed AS free, '' AS token
FROM shop_product WHERE sku = ANY(%(skus)s::text[])
UNION ALL
SELECT 'counted', id::text, 0, 0, 0, reservation FROM shop_order WHERE id = ANY(%(ids)s::uuid[]) AND reservation <> ''
