-- Cancels an order and returns its units, once. `%(undecided)s`: the wish came before the order ended, so that an
-- end nobody has seen yet (rejected, failed) gives way to it.
WITH cancelled AS (
    UPDATE shop_order SET status = 'cancelled', reason = NULL, decided_at = updated_at, updated_at = now()
    WHERE id = %(id)s::uuid AND (status = 'confirmed' OR (%(undecided)s AND status IN ('rejected', 'failed')))
    RETURNING id, client, reservation
), line AS (
    SELECT l.sku, l.quantity, cancelled.id, cancelled.client FROM shop_orderline AS l
    JOIN cancelled ON cancelled.id = l.order_id AND cancelled.reservation <> ''
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
