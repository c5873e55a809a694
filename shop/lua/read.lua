-- Reads orders as clients see them.
--
-- KEYS order records
-- REPLY JSON, per order: [document, status, reason or null, updated at ms, whether it is to be cancelled], or null
local replies = {}
for at, record in ipairs(KEYS) do
  local document, status, reason, updated_at, cancel =
    unpack(redis.call('HMGET', record, 'document', 'status', 'reason', 'updated_at', 'cancel'))
  local reply = 'null'
  if document and status and updated_at then
    if not reason or reason == '' then reason = 'null' end
    -- Document and reason are JSON already.
    reply = '[' .. document .. ',"' .. status .. '",' .. reason .. ',' .. updated_at .. ',' .. tostring(cancel ~= false) .. ']'
  end
  replies[at] = reply
end
return '[' .. table.concat(replies, ',') .. ']'
