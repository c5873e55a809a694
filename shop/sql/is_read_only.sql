-- Whether PostgreSQL takes no writes: a standby, or one that is set so. It looks at a table that every order needs.
SELECT current_setting('transaction_read_only')::boolean FROM (SELECT count(*) FROM (SELECT FROM shop_order LIMIT 1) AS o) AS c
