-- Decides orders, yes and no, in the order given: every line of an order or none of it.
--
-- No client stands between the lock of a product's row and the commit. Product rows are locked with SKIP LOCKED: an order that
-- needs a row which another transaction holds is `blocked`, and no other order waits for it. A plain read then tells such a row
-- from a SKU that does not exist. An order that Redis called short locks nothing: it is rejected where committed units, less
-- those of this call, do not suffice, and is `again` where they do.
--
-- Most calls have orders to take alone, all of them new, and there is enough for all: these are written without a look at each
-- line. Any other call looks at the orders one after the other.
--
-- Arguments, per order: id, client, intent (take, short; book: take or leave it undecided; or an end that needs no units),
-- customer, reference, fingerprint, reason of such an end, when it was accepted (Unix ms), and where its lines end in the arrays of lines. Per line: its order's place, its place in
-- it, its SKU, that SKU's place in `skus`, units. `skus`: each once, those of orders to take first: so many are to be locked; `totals`:
-- the units of these that are to be taken. `are_new`: no order has been decided, as far as the caller knows.
-- Result, per order: outcome (a status, `blocked`, `again`), since when (Unix ms), reason, fingerprint of the row, blocking SKU.
-- Per SKU: version and free units, NULL for one that does not exist.
-- `followed`: which PostgreSQL, and how far, Redis follows ('' = it does not know). Raises 55000 where this is not its
-- continuation (`shop.continuity`). An order has one row in `shop_orderidentity`: 23505, of its primary key, where one of the
-- orders has been decided after all: call again, without `are_new`.
CREATE OR REPLACE FUNCTION shop_decide(
    ids uuid[], clients text[], intents text[], customers text[], refs text[], given_prints text[], given_reasons jsonb[],
    accepted_ms bigint[], line_ends int[],
    line_orders int[], line_positions int[], line_skus text[], line_places int[], line_units bigint[],
    skus text[], to_lock int, totals bigint[], are_new boolean, ended_ms bigint, followed text,
    OUT outcomes text[], OUT since_ms bigint[], OUT reasons jsonb[], OUT prints text[], OUT blocking text[],
    OUT versions bigint[], OUT free bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    r record;
    is_locked boolean[];
    is_sold boolean[];
    orders int := coalesce(array_length(ids, 1), 0);
    first int := 1;
    has_ended boolean := false;
    verdict text;
    place int;
    locked int;
    is_enough boolean;
BEGIN
    IF NOT shop_continues(followed) THEN
        RAISE EXCEPTION 'this is not the PostgreSQL that Redis has followed' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    since_ms := array_fill(ended_ms, ARRAY[orders]);
    reasons := given_reasons;
    prints := given_prints;
    WITH row AS MATERIALIZED (
        SELECT s.place, s.total, p.version, p.on_sale - p.confirmed AS free
        FROM unnest(skus[1:to_lock], totals) WITH ORDINALITY AS s (sku, total, place) JOIN shop_product AS p ON p.sku = s.sku
        FOR NO KEY UPDATE OF p SKIP LOCKED
    )
    SELECT count(*), bool_and(row.free >= row.total), array_agg(row.version + 1 ORDER BY row.place),
           array_agg(row.free - row.total ORDER BY row.place)
    INTO locked, is_enough, versions, free FROM row;
    IF are_new AND locked = to_lock AND is_enough AND 'take' = ALL (intents) THEN
        outcomes := array_fill('confirmed'::text, ARRAY[orders]);
        blocking := array_fill(NULL::text, ARRAY[orders]);
        INSERT INTO shop_orderidentity (id, fingerprint, accepted_at)
        SELECT o.id, o.fingerprint, to_timestamp(o.accepted_ms / 1000.0)
        FROM unnest(ids, prints, accepted_ms) AS o (id, fingerprint, accepted_ms)
        ORDER BY o.id;  -- so that copies that write the same orders wait for each other in one order
        INSERT INTO shop_order (id, client, status, customer, reference, fingerprint, accepted_at, updated_at)
        SELECT o.id, o.client, 'confirmed', o.customer, o.reference, o.fingerprint,
               to_timestamp(o.accepted_ms / 1000.0), to_timestamp(ended_ms / 1000.0)
        FROM unnest(ids, clients, customers, refs, prints, accepted_ms)
             AS o (id, client, customer, reference, fingerprint, accepted_ms);
        INSERT INTO shop_orderline (order_id, position, sku, quantity)
        SELECT ids[l.place], l.position, l.sku, l.units
        FROM unnest(line_orders, line_positions, line_skus, line_units) AS l (place, position, sku, units);
        INSERT INTO shop_stockmovement (sku, kind, delta, order_id, client)
        SELECT l.sku, 'sale', -l.units, ids[l.place], clients[l.place]
        FROM unnest(line_orders, line_skus, line_units) AS l (place, sku, units);
        UPDATE shop_product AS p SET confirmed = p.confirmed + s.total, version = p.version + 1
        FROM unnest(skus, totals) AS s (sku, total) WHERE p.sku = s.sku;
        RETURN;
    END IF;
    outcomes := array_fill(NULL::text, ARRAY[orders]);
    blocking := outcomes;
    is_locked := array_fill(false, ARRAY[coalesce(array_length(skus, 1), 0)]);
    is_sold := is_locked;
    versions := array_fill(NULL::bigint, ARRAY[coalesce(array_length(skus, 1), 0)]);
    free := versions;
    FOR r IN
        SELECT s.place, p.version, p.on_sale - p.confirmed AS free
        FROM unnest(skus[1:to_lock]) WITH ORDINALITY AS s (sku, place) JOIN shop_product AS p ON p.sku = s.sku
        FOR NO KEY UPDATE OF p SKIP LOCKED
    LOOP
        versions[r.place] := r.version;
        free[r.place] := r.free;
        is_locked[r.place] := true;
    END LOOP;
    FOR r IN
        SELECT s.place, p.version, p.on_sale - p.confirmed AS free
        FROM unnest(skus, is_locked) WITH ORDINALITY AS s (sku, is_locked, place) JOIN shop_product AS p ON p.sku = s.sku
        WHERE NOT s.is_locked
    LOOP
        versions[r.place] := r.version;
        free[r.place] := r.free;
    END LOOP;
    -- After the locks: a call that decided one of these orders before has committed by now, or its rows were not to be had.
    FOR r IN
        SELECT o.place, s.status, s.reason, s.fingerprint, s.updated_at
        FROM unnest(ids) WITH ORDINALITY AS o (id, place) JOIN shop_orderidentity AS i ON i.id = o.id
             JOIN shop_order AS s ON s.accepted_at = i.accepted_at AND s.id = i.id
    LOOP
        outcomes[r.place] := r.status;
        since_ms[r.place] := round(extract(epoch FROM r.updated_at) * 1000);
        reasons[r.place] := r.reason;
        prints[r.place] := r.fingerprint;
        intents[r.place] := 'known';
    END LOOP;
    FOR at IN 1 .. orders LOOP
        IF intents[at] IN ('rejected', 'cancelled', 'failed') THEN
            outcomes[at] := intents[at];
        ELSIF intents[at] <> 'known' THEN
            verdict := CASE intents[at] WHEN 'short' THEN 'again' ELSE 'confirmed' END;
            FOR line IN first .. line_ends[at] LOOP
                place := line_places[line];
                IF free[place] IS NULL THEN
                    verdict := 'unknown';
                    EXIT;
                ELSIF intents[at] <> 'short' AND NOT is_locked[place] THEN
                    verdict := 'blocked';
                    blocking[at] := line_skus[line];
                ELSIF free[place] < line_units[line] AND verdict <> 'blocked' THEN
                    verdict := 'rejected';
                END IF;
            END LOOP;
            IF verdict = 'confirmed' THEN
                FOR line IN first .. line_ends[at] LOOP
                    place := line_places[line];
                    free[place] := free[place] - line_units[line];
                    is_sold[place] := true;
                END LOOP;
            ELSIF intents[at] = 'book' AND verdict <> 'blocked' THEN
                verdict := 'again';
            ELSIF verdict IN ('unknown', 'rejected') THEN
                reasons[at] := (
                    SELECT jsonb_build_object(
                        'code', CASE verdict WHEN 'unknown' THEN 'unknown_sku' ELSE 'insufficient_stock' END,
                        'lines', jsonb_agg(jsonb_build_object(
                            'sku', line_skus[l], 'requested', line_units[l], 'available', greatest(0, coalesce(free[line_places[l]], 0))
                        ) ORDER BY l)
                    )
                    FROM generate_series(first, line_ends[at]) AS l
                    WHERE CASE verdict WHEN 'unknown' THEN free[line_places[l]] IS NULL
                                     ELSE free[line_places[l]] < line_units[l] END
                );
                verdict := 'rejected';
                blocking[at] := NULL;
            END IF;
            outcomes[at] := verdict;
        END IF;
        IF intents[at] <> 'known' AND outcomes[at] NOT IN ('blocked', 'again') THEN
            has_ended := true;
        END IF;
        first := line_ends[at] + 1;
    END LOOP;
    IF NOT has_ended THEN
        RETURN;
    END IF;
    INSERT INTO shop_orderidentity (id, fingerprint, accepted_at)
    SELECT o.id, o.fingerprint, to_timestamp(o.accepted_ms / 1000.0)
    FROM unnest(ids, outcomes, intents, prints, accepted_ms) AS o (id, outcome, intent, fingerprint, accepted_ms)
    WHERE o.intent <> 'known' AND o.outcome NOT IN ('blocked', 'again')
    ORDER BY o.id;
    INSERT INTO shop_order (id, client, status, customer, reference, fingerprint, reason, accepted_at, updated_at)
    SELECT o.id, o.client, o.outcome, o.customer, o.reference, o.fingerprint, o.reason,
           to_timestamp(o.accepted_ms / 1000.0), to_timestamp(ended_ms / 1000.0)
    FROM unnest(ids, clients, outcomes, intents, customers, refs, prints, reasons, accepted_ms)
         AS o (id, client, outcome, intent, customer, reference, fingerprint, reason, accepted_ms)
    WHERE o.intent <> 'known' AND o.outcome NOT IN ('blocked', 'again');
    INSERT INTO shop_orderline (order_id, position, sku, quantity)
    SELECT ids[l.place], l.position, l.sku, l.units
    FROM unnest(line_orders, line_positions, line_skus, line_units) AS l (place, position, sku, units)
    WHERE intents[l.place] <> 'known' AND outcomes[l.place] NOT IN ('blocked', 'again');
    IF true = ANY (is_sold) THEN
        INSERT INTO shop_stockmovement (sku, kind, delta, order_id, client)
        SELECT l.sku, 'sale', -l.units, ids[l.place], clients[l.place]
        FROM unnest(line_orders, line_skus, line_units) AS l (place, sku, units)
        WHERE intents[l.place] IN ('take', 'book') AND outcomes[l.place] = 'confirmed';
        UPDATE shop_product AS p SET confirmed = p.on_sale - s.free, version = p.version + 1
        FROM unnest(skus, free, is_sold) AS s (sku, free, is_sold)
        WHERE s.is_sold AND p.sku = s.sku;
        FOR place IN 1 .. array_length(skus, 1) LOOP
            IF is_sold[place] THEN
                versions[place] := versions[place] + 1;
            END IF;
        END LOOP;
    END IF;
END $$;
