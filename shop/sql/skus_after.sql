-- The next SKUs in order.
SELECT sku FROM shop_product WHERE sku > %(after)s ORDER BY sku LIMIT %(limit)s
