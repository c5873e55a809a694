-- Those of these orders that have ended, each with its lines as one JSON array; none of other clients, because nobody shall
-- tell by the time it takes whether somebody else has an order.
SELECT o.id::text, o.client, o.status, o.customer, o.reference, o.fingerprint, o.reason, o.accepted_at, o.updated_at,
       (SELECT json_agg(json_build_array(l.sku, l.quantity) ORDER BY l.position)
        FROM shop_orderline AS l WHERE l.order_id = o.id) AS lines
FROM shop_orderidentity AS i JOIN shop_order AS o ON o.accepted_at = i.accepted_at AND o.id = i.id
WHERE i.id = ANY(%(ids)s::uuid[]) AND o.client = ANY(%(clients)s::text[])
