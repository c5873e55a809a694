-- One product.
SELECT sku, name, price, on_sale - confirmed FROM shop_product WHERE sku = %(sku)s
