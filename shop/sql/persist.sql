-- Writes ended orders with their lines, counters and movements: all of them, or none if one of them may not be.
-- An order that has a row already changes nothing. Refusals: constraint product_not_oversold (more units than are on
-- sale); NOT NULL of shop_product.sku (a SKU that does not exist).
-- Product rows are updated in SKU order, so that two statements can't wait for each other in a circle, and not locked
-- before, which would be half of their price. What keeps the order: no join but a nested loop can use ANY, and a left
-- join's loop begins with its left side, so the planner has no choice but to take the sales as they are sorted.
WITH inserted AS (
    INSERT INTO shop_order
        (id, client, status, customer, reference, fingerprint, reservation, reason, accepted_at, updated_at)
    SELECT id, client, status, customer, reference, fingerprint, reservation, reason,
           to_timestamp(accepted_ms / 1000.0), to_timestamp(%(ended_ms)s::bigint / 1000.0)
    FROM unnest(%(ids)s::uuid[], %(clients)s::text[], %(statuses)s::text[], %(customers)s::text[],
                %(references)s::text[], %(fingerprints)s::text[], %(reservations)s::text[],
                %(reasons)s::jsonb[], %(accepted_ms)s::bigint[])
         AS o (id, client, status, customer, reference, fingerprint, reservation, reason, accepted_ms)
    ON CONFLICT (id) DO NOTHING
    RETURNING id, client, status
), line AS (
    SELECT l.order_id, l.position, l.sku, l.quantity, inserted.client, inserted.status
    FROM unnest(%(line_orders)s::uuid[], %(positions)s::int[], %(skus)s::text[], %(quantities)s::bigint[])
         AS l (order_id, position, sku, quantity)
    JOIN inserted ON inserted.id = l.order_id
), stored AS (
    INSERT INTO shop_orderline (order_id, position, sku, quantity)
    SELECT order_id, position, sku, quantity FROM line
), sold AS (
    SELECT sku, sum(quantity)::bigint AS units FROM line WHERE status = 'confirmed' GROUP BY sku
), counted AS (
    MERGE INTO shop_product AS product
    USING (SELECT sku, units FROM sold ORDER BY sku COLLATE "C") AS sale ON product.sku = ANY (ARRAY[sale.sku])
    WHEN MATCHED THEN UPDATE SET confirmed = product.confirmed + sale.units
    WHEN NOT MATCHED THEN INSERT (sku) VALUES (NULL)
), moved AS (
    INSERT INTO shop_stockmovement (sku, kind, delta, order_id, client)
    SELECT sku, 'sale', -quantity, order_id, client FROM line WHERE status = 'confirmed'
)
SELECT id FROM inserted
