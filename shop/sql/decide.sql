-- Decides orders (`shop_decide`): outcomes, since when, reasons, fingerprints, blocking SKUs; versions and free units of the SKUs.
SELECT array_to_json(outcomes)::text, array_to_json(since_ms)::text, array_to_json(reasons)::text, array_to_json(prints)::text,
       array_to_json(blocking)::text, array_to_json(versions)::text, array_to_json(free)::text
FROM shop_decide(
    %(ids)s::uuid[], %(clients)s::text[], %(intents)s::text[], %(customers)s::text[], %(references)s::text[],
    %(fingerprints)s::text[], %(reasons)s::jsonb[], %(accepted_ms)s::bigint[], %(line_ends)s::int[],
    %(line_orders)s::int[], %(positions)s::int[], %(line_skus)s::text[], %(line_places)s::int[], %(quantities)s::bigint[],
    %(skus)s::text[], %(to_lock)s::int, %(totals)s::bigint[], %(are_new)s::bool, %(ended_ms)s::bigint, %(followed)s::text
)
