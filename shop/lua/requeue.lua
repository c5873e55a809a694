-- Puts messages of open orders on the queue again; does nothing for an order that ended meanwhile.
--
-- KEYS 1 orders:open, 2 broker queue ('' = the caller publishes)
-- ARGV 1 now ms, 2 next look ms; then per order (1,000 at most): id, message
-- REPLY {ids of the orders that are still open, ...}
local call = redis.call
local open, messages, looks = {}, {}, {}
for at = 3, #ARGV, 2 do
  local id = ARGV[at]
  if call('ZSCORE', KEYS[1], id) then
    open[#open + 1], messages[#messages + 1] = id, ARGV[at + 1]
    looks[#looks + 1], looks[#looks + 2] = ARGV[2], id
  end
end
if #open == 0 then return open end
-- First what may be refused: a queue that is no list.
if KEYS[2] ~= '' then call('LPUSH', KEYS[2], unpack(messages)) end
call('ZADD', KEYS[1], unpack(looks))
-- A record that somebody has broken is refused alone.
for _, id in ipairs(open) do redis.pcall('HSET', 'order:' .. id, 'enqueued_at', ARGV[1]) end
return open
