-- SKUs whose stock was moved or given back a moment ago, but not just now.
SELECT sku FROM shop_product
WHERE changed_at BETWEEN now() - interval '2 minutes' AND now() - interval '2 seconds' AND version > 1
ORDER BY changed_at LIMIT 5000
