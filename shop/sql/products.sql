-- A page of products after a SKU, whose SKU or name holds a text.
SELECT sku, name, price, on_sale - confirmed FROM shop_product
WHERE sku > %(after)s AND (sku ILIKE %(pattern)s OR name ILIKE %(pattern)s)
ORDER BY sku LIMIT %(limit)s
