-- What a role lacks: `table` where one is not there (or in a schema that the role may not use), `column`, `privilege`,
-- and `writes` where the server, or this role in it, only reads.
WITH needed AS (
    SELECT relation, privilege, to_regclass(relation) AS id
    FROM unnest(%(relations)s::text[], %(privileges)s::text[]) AS n (relation, privilege)
), described AS (
    SELECT relation, name, to_regclass(relation) AS id
    FROM unnest(%(column_relations)s::text[], %(columns)s::text[]) AS c (relation, name)
)
SELECT DISTINCT 'table', relation, '', current_user::text FROM described WHERE id IS NULL
UNION ALL
SELECT 'column', relation, name, current_user::text FROM described
WHERE id IS NOT NULL AND NOT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = described.id AND attname = described.name AND NOT attisdropped
)
UNION ALL
SELECT 'privilege', relation, privilege, current_user::text FROM needed
WHERE id IS NOT NULL AND NOT has_table_privilege(id, privilege)
UNION ALL
SELECT 'writes', '', '', current_user::text WHERE current_setting('transaction_read_only')::boolean
