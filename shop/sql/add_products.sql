-- Puts products on sale with their opening stock. Those that exist are left as they are; answers which were added.
WITH listed AS (
    SELECT * FROM unnest(%(skus)s::text[], %(names)s::text[], %(prices)s::numeric[], %(stocks)s::bigint[])
         AS l (sku, name, price, stock)
), added AS (
    INSERT INTO shop_product (sku, name, price, on_sale)
    SELECT sku, name, price, stock FROM listed ORDER BY sku COLLATE "C"
    ON CONFLICT (sku) DO NOTHING
    RETURNING sku, on_sale
), moved AS (
    INSERT INTO shop_stockmovement (sku, kind, delta, reason) SELECT sku, 'opening', on_sale, %(reason)s FROM added
)
SELECT sku FROM added
