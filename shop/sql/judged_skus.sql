-- Products as the books have them: put on sale and confirmed, each by the counter, by the movements and by the order
-- lines, and when stock came last.
WITH moved AS (
    SELECT sku, sum(delta) FILTER (WHERE kind IN ('opening', 'adjustment')) AS on_sale,
           -sum(delta) FILTER (WHERE kind IN ('sale', 'cancellation')) AS confirmed,
           max(created_at) FILTER (WHERE delta > 0) AS came_at
    FROM shop_stockmovement WHERE sku = ANY(%(skus)s::text[]) GROUP BY sku
), ordered AS (
    SELECT l.sku, sum(l.quantity) AS units FROM shop_orderline AS l
    JOIN shop_order AS o ON o.id = l.order_id AND o.status = 'confirmed'
    WHERE l.sku = ANY(%(skus)s::text[]) GROUP BY l.sku
)
SELECT p.sku, p.on_sale, coalesce(moved.on_sale, 0)::bigint, p.confirmed, coalesce(moved.confirmed, 0)::bigint,
       coalesce(ordered.units, 0)::bigint, moved.came_at
FROM shop_product AS p LEFT JOIN moved ON moved.sku = p.sku LEFT JOIN ordered ON ordered.sku = p.sku
WHERE p.sku = ANY(%(skus)s::text[])
