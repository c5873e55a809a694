-- Reads orders as clients see them. Whoever asks for another client's order is answered at the cost of one that is not there.
--
-- KEYS order records
-- ARGV per order: client that asks
-- REPLY JSON, per order: [document, status, reason or null, updated at ms, whether it is to be cancelled], null, or false
--   false: somebody has put something else under the order's key.
local replies = {}
for at, record in ipairs(KEYS) do
  local document, status, reason, updated_at, cancel
  local client = redis.pcall('HGET', record, 'client')
  if client == ARGV[at] then
    document, status, reason, updated_at, cancel =
      unpack(redis.call('HMGET', record, 'document', 'status', 'reason', 'updated_at', 'cancel'))
    -- A queued order carries the wish itself.
    if status == 'confirmed' then cancel = redis.call('ZSCORE', 'orders:cancelling', string.sub(record, 7)) end
  end
  local reply = client and client.err and 'false' or 'null'
  if document and status and updated_at then
    if not reason or reason == '' then reason = 'null' end
    -- Document and reason are JSON already.
    reply = '[' .. document .. ',"' .. status .. '",' .. reason .. ',' .. updated_at .. ',' .. tostring(cancel ~= false) .. ']'
  end
  replies[at] = reply
end
return '[' .. table.concat(replies, ',') .. ']'
