-- Orders as the books have them: those with these ids, and whatever else came under these references meanwhile.
SELECT o.id::text, o.client, o.status, o.customer, o.reference, o.reason::text, o.updated_at,
       (SELECT json_agg(json_build_array(l.sku, l.quantity) ORDER BY l.position)
        FROM shop_orderline AS l WHERE l.order_id = o.id)::text AS lines
FROM shop_order AS o
WHERE o.id = ANY(%(ids)s::uuid[])
   OR (o.accepted_at BETWEEN %(since)s AND %(until)s AND o.reference = ANY(%(references)s::text[]))
