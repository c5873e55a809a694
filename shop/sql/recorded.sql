-- What PostgreSQL has of orders that have ended.
SELECT o.id, o.status, o.updated_at, o.reason, o.fingerprint
FROM shop_orderidentity AS i JOIN shop_order AS o ON o.accepted_at = i.accepted_at AND o.id = i.id
WHERE i.id = ANY(%(ids)s::uuid[])
