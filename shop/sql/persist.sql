-- Writes ended orders with their lines, counters and movements: all of them, or none if one of them may not be.
-- An order that has a row already changes nothing. Refusals: constraint product_not_oversold (more units than are on
-- sale); NOT NULL of shop_stockmovement.sku (a SKU that does not exist).
-- Products are counted by an upsert, because it alone takes its rows in the order in which they are told, whatever the
-- planner thinks: so two statements can't wait for each other in a circle, and rows are not looked up to be locked first.
-- What it would insert is a product that does not exist; version 0, which no product has, gives it away. (IN, not
-- a join: the planner can't know how many lines there are, and would join each with each.)
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
    INSERT INTO shop_product (sku, name, price, on_sale, confirmed, version)
    SELECT sku, '', 0, units, units, 0 FROM sold ORDER BY sku COLLATE "C"
    ON CONFLICT (sku) DO UPDATE SET confirmed = shop_product.confirmed + excluded.confirmed
    RETURNING sku, version
), moved AS (
    INSERT INTO shop_stockmovement (sku, kind, delta, order_id, client)
    SELECT CASE WHEN sku NOT IN (SELECT counted.sku FROM counted WHERE version = 0) THEN line.sku END,
           'sale', -quantity, order_id, client
    FROM line WHERE status = 'confirmed'
)
SELECT id FROM inserted
