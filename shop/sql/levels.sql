-- The stock levels of SKUs: version, level (units ever put on sale or returned), and units that are not in a confirmed order.
SELECT sku, version, on_sale + returned AS units, on_sale - confirmed AS free
FROM shop_product WHERE sku = ANY(%(skus)s::text[])
