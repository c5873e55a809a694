-- Of SKUs: the version of their counters, which grows with each change, and the units that are in no confirmed order.
SELECT sku, version, on_sale - confirmed AS free FROM shop_product WHERE sku = ANY(%(skus)s::text[])
