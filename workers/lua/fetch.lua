-- Takes messages from queues and records each as unacknowledged, in one step: a worker that dies loses none of them.
-- Forgets those that it acknowledges.
-- The record is kombu's own (a hash entry and a time), so that every kombu worker can restore it.
--
-- KEYS 1 unacked, 2 unacked_index, 3 unreadable, then queues; the last one gets what the others leave of the limit
-- ARGV 1 now s, 2 limit, 3 share of each queue but the last, then tags that are acknowledged
-- REPLY per queue: the messages taken, oldest first; those without a tag are kept as unreadable
local call = redis.call
-- Fail now where one of them is of another type: what is taken from its queue has to be recorded.
call('HLEN', KEYS[1])
call('ZCARD', KEYS[2])
if #ARGV > 3 then
  call('HDEL', KEYS[1], unpack(ARGV, 4))
  call('ZREM', KEYS[2], unpack(ARGV, 4))
end
local left = tonumber(ARGV[2])
local replies = {}
for at = 4, #KEYS do
  local queue, taken = KEYS[at], {}
  local share = at == #KEYS and left or math.min(left, tonumber(ARGV[3]))
  local messages = share > 0 and call('RPOP', queue, share) or {}
  for _, message in ipairs(messages) do
    -- The last one: kombu writes properties after headers, which hold what a caller likes.
    local tag = string.match(message, '.*"delivery_tag":%s*"([^"]+)"')
    if tag then
      -- Restored by anybody, it goes to this very queue: the default exchange routes by a queue's name (AMQP 0-9-1).
      call('HSET', KEYS[1], tag, '[' .. message .. ',"",' .. cjson.encode(queue) .. ']')
      call('ZADD', KEYS[2], ARGV[1], tag)
    else
      call('LPUSH', KEYS[3], message)
      call('LTRIM', KEYS[3], 0, 999)
    end
    taken[#taken + 1] = message
  end
  left = left - #messages
  replies[#replies + 1] = taken
end
return replies
