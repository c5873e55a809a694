-- The products of these SKUs; those that do not exist are left out.
SELECT sku, name, price, on_sale - confirmed FROM shop_product WHERE sku = ANY(%(skus)s::text[])
