-- What a role lacks: `table` or `function` where one is not there, `column`, `privilege` (USAGE of the schema where that hides
-- a table), and `writes` where the server, or this role in it, only reads.
WITH needed AS (
    SELECT relation, privilege, to_regclass(relation) AS id
    FROM unnest(%(relations)s::text[], %(privileges)s::text[]) AS n (relation, privilege)
), described AS (
    SELECT relation, name, to_regclass(relation) AS id
    FROM unnest(%(column_relations)s::text[], %(columns)s::text[]) AS c (relation, name)
), called AS (
    SELECT name, to_regproc(name) AS id FROM unnest(%(functions)s::text[]) AS f (name)
), hidden AS (
    SELECT t.relname AS relation, min(s.nspname) AS schema
    FROM pg_class AS t JOIN pg_namespace AS s ON s.oid = t.relnamespace
    WHERE t.relkind IN ('r', 'p') AND NOT has_schema_privilege(s.oid, 'USAGE')
    GROUP BY t.relname
)
SELECT DISTINCT
    CASE WHEN hidden.schema IS NULL THEN 'table' ELSE 'privilege' END,
    coalesce('schema ' || hidden.schema, relation),
    CASE WHEN hidden.schema IS NULL THEN '' ELSE 'USAGE' END,
    current_user::text
FROM described LEFT JOIN hidden USING (relation) WHERE id IS NULL
UNION ALL
SELECT 'column', relation, name, current_user::text FROM described
WHERE id IS NOT NULL AND NOT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = described.id AND attname = described.name AND NOT attisdropped
)
UNION ALL
SELECT 'privilege', relation, privilege, current_user::text FROM needed
WHERE id IS NOT NULL AND NOT has_table_privilege(id, privilege)
UNION ALL
SELECT 'function', name, '', current_user::text FROM called
WHERE id IS NULL AND NOT EXISTS (SELECT FROM hidden WHERE relation = ANY (%(relations)s::text[]))
UNION ALL
SELECT 'privilege', name, 'EXECUTE', current_user::text FROM called
WHERE id IS NOT NULL AND NOT has_function_privilege(id, 'EXECUTE')
UNION ALL
SELECT 'writes', '', '', current_user::text WHERE current_setting('transaction_read_only')::boolean
