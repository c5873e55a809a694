-- How many products there are.
SELECT count(*) FROM shop_product
