-- Clients and scopes of those API keys that are not revoked.
SELECT digest, client, scopes FROM shop_apikey WHERE digest = ANY(%(digests)s::text[]) AND revoked_at IS NULL
