-- The SKUs of an order.
SELECT sku FROM shop_orderline WHERE order_id = %(id)s::uuid ORDER BY position
