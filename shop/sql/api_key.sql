-- Client and scopes of an API key that is not revoked.
SELECT client, scopes FROM shop_apikey WHERE digest = %(digest)s AND revoked_at IS NULL
