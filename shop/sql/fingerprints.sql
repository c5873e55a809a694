-- Orders that Redis may have forgotten, and what they meant.
SELECT id::text, fingerprint FROM shop_orderidentity WHERE id = ANY(%(ids)s::uuid[])
