-- Products of which more was confirmed than was put on sale: there are none.
SELECT sku, on_sale, confirmed FROM shop_product WHERE confirmed > on_sale ORDER BY sku
