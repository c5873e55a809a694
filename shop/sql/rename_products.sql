-- Gives products that exist a new name and price. Those that have them already are not touched, and not locked.
WITH listed AS (
    SELECT * FROM unnest(%(skus)s::text[], %(names)s::text[], %(prices)s::numeric[]) AS l (sku, name, price)
), locked AS (
    SELECT product.sku, listed.name, listed.price
    FROM shop_product AS product JOIN listed ON listed.sku = product.sku
    WHERE (product.name, product.price) IS DISTINCT FROM (listed.name, listed.price)
    ORDER BY product.sku FOR NO KEY UPDATE OF product
)
UPDATE shop_product AS product SET name = locked.name, price = locked.price
FROM locked WHERE product.sku = locked.sku
RETURNING product.sku
