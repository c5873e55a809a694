-- Products whose counters differ from the ledger or from the confirmed orders. One snapshot, so orders may flow meanwhile.
WITH moved AS (
    SELECT sku, sum(delta) FILTER (WHERE kind IN ('opening', 'adjustment')) AS on_sale,
           -sum(delta) FILTER (WHERE kind IN ('sale', 'cancellation')) AS confirmed
    FROM shop_stockmovement GROUP BY sku
), ordered AS (
    SELECT l.sku, sum(l.quantity) AS units FROM shop_orderline AS l
    JOIN shop_order AS o ON o.id = l.order_id AND o.status = 'confirmed' GROUP BY l.sku
)
SELECT p.sku, p.on_sale, coalesce(moved.on_sale, 0)::bigint, p.confirmed, coalesce(ordered.units, 0)::bigint
FROM shop_product AS p LEFT JOIN moved ON moved.sku = p.sku LEFT JOIN ordered ON ordered.sku = p.sku
WHERE p.on_sale <> coalesce(moved.on_sale, 0)
   OR p.confirmed <> coalesce(ordered.units, 0)
   OR p.confirmed <> coalesce(moved.confirmed, 0)
ORDER BY p.sku
