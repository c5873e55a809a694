-- Orders as the books have them: those with these ids, and whatever else came under these references meanwhile.
SELECT o.id::text, o.client, o.status, o.customer, o.reference, o.reason::text, o.updated_at,
       (SELECT json_agg(json_build_array(l.sku, l.quantity) ORDER BY l.position)
        FROM shop_orderline AS l WHERE l.order_id = o.id)::text AS lines
FROM shop_order AS o JOIN (
    SELECT accepted_at, id FROM shop_orderidentity WHERE id = ANY(%(ids)s::uuid[])
    UNION
    SELECT accepted_at, id FROM shop_order
    WHERE accepted_at BETWEEN %(since)s AND %(until)s AND reference = ANY(%(references)s::text[])
) AS found USING (accepted_at, id)
