-- Cancels a confirmed order and returns its units, once. Every other end stays.
-- Waits for no row: where another transaction holds that of the order or of one of its products, nothing changes.
-- Result: whether the order was cancelled, and whether it was confirmed before.
WITH asked AS (
    SELECT o.id, o.accepted_at, o.client
    FROM shop_orderidentity AS i JOIN shop_order AS o ON o.accepted_at = i.accepted_at AND o.id = i.id
    WHERE i.id = %(id)s::uuid AND o.status = 'confirmed' FOR NO KEY UPDATE OF o SKIP LOCKED
), line AS (
    SELECT l.sku, l.quantity, asked.id, asked.client FROM shop_orderline AS l JOIN asked ON asked.id = l.order_id
), locked AS (
    SELECT product.sku FROM shop_product AS product
    WHERE product.sku IN (SELECT sku FROM line) ORDER BY product.sku FOR NO KEY UPDATE SKIP LOCKED
), cancelled AS (
    UPDATE shop_order AS o SET status = 'cancelled', decided_at = o.updated_at, updated_at = now() FROM asked
    WHERE o.accepted_at = asked.accepted_at AND o.id = asked.id AND (SELECT count(*) FROM locked) = (SELECT count(*) FROM line)
    RETURNING o.id
), counted AS (
    UPDATE shop_product AS product
    SET confirmed = product.confirmed - line.quantity, returned = product.returned + line.quantity,
        version = product.version + 1, changed_at = now()
    FROM line JOIN cancelled ON cancelled.id = line.id
    WHERE product.sku = line.sku
), moved AS (
    INSERT INTO shop_stockmovement (sku, kind, delta, order_id, client)
    SELECT line.sku, 'cancellation', line.quantity, line.id, line.client FROM line JOIN cancelled ON cancelled.id = line.id
)
SELECT EXISTS (SELECT FROM cancelled), EXISTS (
    SELECT FROM shop_orderidentity AS i JOIN shop_order AS o ON o.accepted_at = i.accepted_at AND o.id = i.id
    WHERE i.id = %(id)s::uuid AND o.status = 'confirmed'
)
