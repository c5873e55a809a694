-- Reads orders as clients see them.
--
-- KEYS order records
-- REPLY {document, status, reason, updated at ms, cancel} per order; each is nil where Redis has no such thing
local replies = {}
for at, record in ipairs(KEYS) do
  replies[at] = redis.call('HMGET', record, 'document', 'status', 'reason', 'updated_at', 'cancel')
end
return replies
