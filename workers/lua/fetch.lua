-- Takes messages from queues and records each as unacknowledged, in one step: a worker that dies loses none of them.
-- Forgets those that it acknowledges.
-- The record is kombu's own (a hash entry and a time), so that every kombu worker can restore it.
--
-- The last queue is left to another worker that keeps up with it, unless so many wait there that both have enough to do.
--
-- KEYS 1 unacked, 2 unacked_index, 3 unreadable, 4 whom the last queue is left to, then queues; the last one gets what the
--      others leave of the limit
-- ARGV 1 now s, 2 limit, 3 share of each queue but the last, 4 who asks, 5 how long (ms) others leave him the last queue
--      if he gets something (0 = they need not), 6 messages that are enough for all, 7 tag of a message on the last queue
--      that he has done already ('' = none): it is not recorded, then tags that are acknowledged
-- REPLY per queue: the messages taken, oldest first; those without a tag are kept as unreadable. Nothing instead of a list
--      for the last queue when it is left to another worker. Then how long (ms) the last queue is left to who asks.
local call = redis.call
-- Fail now where one of them is of another type: what is taken from its queue has to be recorded.
call('HLEN', KEYS[1])
call('ZCARD', KEYS[2])
local left_to = call('GET', KEYS[4]) or ARGV[4]
if #ARGV > 7 then
  call('HDEL', KEYS[1], unpack(ARGV, 8))
  call('ZREM', KEYS[2], unpack(ARGV, 8))
  redis.pcall('HDEL', 'parked', unpack(ARGV, 8))  -- copies of what is done need no doing
end

-- Redis up to 6.2 walks a list from its head to pop many from its end: milliseconds for each fetch in a long line.
local function pop(queue, count)
  if call('LLEN', queue) < 2000 then return call('RPOP', queue, count) or {} end
  local messages = {}
  for n = 1, count do messages[n] = call('RPOP', queue) end
  return messages
end

local left, left_to_him = tonumber(ARGV[2]), 0
local replies = {}
for at = 5, #KEYS do
  local queue, taken, records, times = KEYS[at], {}, {}, {}
  local route = ',"",' .. cjson.encode(queue) .. ']'
  local share = at == #KEYS and left or math.min(left, tonumber(ARGV[3]))
  if at == #KEYS and left_to ~= ARGV[4] and call('LLEN', queue) < tonumber(ARGV[6]) then
    replies[#replies + 1] = false
    break
  end
  local messages = share > 0 and pop(queue, share) or {}
  if at == #KEYS and #messages > 0 and left_to == ARGV[4] and ARGV[5] ~= '0' then
    call('SET', KEYS[4], ARGV[4], 'PX', ARGV[5])
    left_to_him = tonumber(ARGV[5])
  end
  for _, message in ipairs(messages) do
    -- The last one: kombu writes properties after headers, which hold what a caller likes.
    local tag = string.match(message, '.*"delivery_tag":%s*"([^"]+)"')
    if tag and tag ~= ARGV[7] then
      -- Restored by anybody, it goes to this very queue: the default exchange routes by a queue's name (AMQP 0-9-1).
      records[#records + 1], records[#records + 2] = tag, '[' .. message .. route
      times[#times + 1], times[#times + 2] = ARGV[1], tag
    elseif not tag then
      -- What else somebody put there gives way: else this call would end here, and what it took be recorded nowhere.
      if type(redis.pcall('LPUSH', KEYS[3], message)) == 'table' then
        call('DEL', KEYS[3])
        call('LPUSH', KEYS[3], message)
      end
      call('LTRIM', KEYS[3], 0, 999)
    end
    taken[#taken + 1] = message
  end
  if #records > 0 then
    call('HSET', KEYS[1], unpack(records))
    call('ZADD', KEYS[2], unpack(times))
  end
  left = left - #messages
  replies[#replies + 1] = taken
end
replies[#replies + 1] = left_to_him
return replies
