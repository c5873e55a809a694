-- Changes what is on sale of a SKU and writes the movement, where this is the PostgreSQL that Redis follows: else the first column
-- is false. The others are NULL for a SKU that does not exist.
-- A second request with the same id fails on the primary key of shop_movementrequest, one that takes promised units on product_not_oversold.
WITH changed AS (
    UPDATE shop_product SET on_sale = on_sale + %(delta)s, version = version + 1, changed_at = now()
    WHERE sku = %(sku)s AND shop_continues(%(followed)s::text)
    RETURNING sku, version, on_sale - confirmed AS free
), moved AS (
    INSERT INTO shop_stockmovement (sku, kind, delta, request, client, reason)
    SELECT sku, 'adjustment', %(delta)s, %(request)s::uuid, %(client)s, %(reason)s FROM changed
    RETURNING id, request, created_at
), noted AS (
    INSERT INTO shop_movementrequest (request, movement_id, created_at) SELECT request, id, created_at FROM moved
)
SELECT asked.continues, moved.created_at, changed.version, changed.free
FROM (SELECT shop_continues(%(followed)s::text) AS continues) AS asked LEFT JOIN changed ON true LEFT JOIN moved ON true
