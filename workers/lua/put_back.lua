-- Puts unacknowledged messages back at the head of their queues, unchanged and in their old order.
--
-- KEYS 1 unacked, 2 unacked_index
-- ARGV delivery tags, oldest first
-- REPLY how many were put back; what is acknowledged or restored already is left alone
local call = redis.call
local count = 0
for at = #ARGV, 1, -1 do
  local record = call('HGET', KEYS[1], ARGV[at])
  local message, queue = string.match(record or '', '^%[(.*),"","(.-)"%]$')
  if message then
    call('RPUSH', cjson.decode('["' .. queue .. '"]')[1], message)
    call('HDEL', KEYS[1], ARGV[at])
    call('ZREM', KEYS[2], ARGV[at])
    count = count + 1
  end
end
return count
