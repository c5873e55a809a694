-- Waits until no other transaction makes a movement under one of these ids; holds them to the end of this transaction.
SELECT pg_advisory_xact_lock(hashtextextended(request, 0))
FROM (SELECT request FROM unnest(%(requests)s::text[]) AS request ORDER BY request COLLATE "C") AS sorted
