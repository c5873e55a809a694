-- Cancels a confirmed order and returns its units, once. Every other end stays.
WITH cancelled AS (
    UPDATE shop_order SET status = 'cancelled', decided_at = updated_at, updated_at = now()
    WHERE id = %(id)s::uuid AND status = 'confirmed'
    RETURNING id, client
), line AS (
    SELECT l.sku, l.quantity, cancelled.id, cancelled.client FROM shop_orderline AS l
    JOIN cancelled ON cancelled.id = l.order_id
), locked AS (
    SELECT product.sku FROM shop_product AS product
    WHERE product.sku IN (SELECT sku FROM line) ORDER BY product.sku FOR NO KEY UPDATE
), counted AS (
    UPDATE shop_product AS product
    SET confirmed = product.confirmed - line.quantity, returned = product.returned + line.quantity,
        version = product.version + 1, changed_at = now()
    FROM line JOIN locked ON locked.sku = line.sku
    WHERE product.sku = line.sku
), moved AS (
    INSERT INTO shop_stockmovement (sku, kind, delta, order_id, client)
    SELECT sku, 'cancellation', quantity, id, client FROM line
)
SELECT count(*) FROM cancelled
