-- Puts parked messages whose waiting may be over at the head of their queues, those that have waited longest first.
--
-- What is known to be over has the time 0, and so many go as one batch takes. What may be over is looked at by one message, after
-- longer and longer: a tenth of the time that the oldest has waited. It is drawn by lot: one may wait in vain for what others get.
--
-- KEYS 1 parked, 2 parked_index
-- ARGV 1 now ms, 2 messages at most for each thing that is over, 3 things looked at, at most, 4 and 5 shortest and longest wait (ms)
--      between looks, 6 a lot (0 to 1: 0 draws the oldest; a fifth of it is taken off a wait), then what is over since the last call
-- REPLY 1 where anything is parked, else 0
local call = redis.call
call('ZREM', KEYS[2], '')  -- opens a full Redis: Note [Memory of Redis]
for at = 7, #ARGV do call('ZADD', KEYS[2], 'XX', 0, ARGV[at]) end
local now, looks = tonumber(ARGV[1]), call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for at = 1, #looks, 2 do
  local awaited, line = looks[at], 'parked:' .. looks[at]
  local first, last = 0, ARGV[2] - 1
  if looks[at + 1] ~= '0' then
    first = math.floor(call('ZCARD', line) * ARGV[6])
    last = first
  end
  local tags = call('ZRANGE', line, first, last)
  for n = #tags, 1, -1 do  -- the oldest is pushed last: it is the next
    local message, queue = string.match(call('HGET', KEYS[1], tags[n]) or '', '^%[(.*),"","(.-)"%]$')
    if message then call('RPUSH', cjson.decode('["' .. queue .. '"]')[1], message) end
  end
  if #tags > 0 then
    call('ZREM', line, unpack(tags))
    call('HDEL', KEYS[1], unpack(tags))
  end
  local oldest = call('ZRANGE', line, 0, 0, 'WITHSCORES')[2]
  if oldest then
    local wait = math.max(tonumber(ARGV[4]), math.min((now - oldest) / 10, tonumber(ARGV[5])))
    call('ZADD', KEYS[2], string.format('%.0f', now + wait * (1 - ARGV[6] / 5)), awaited)
  else
    call('ZREM', KEYS[2], awaited)
  end
end
-- Somebody has deleted what the rest of it waits for: it is in nobody's hands, and the sweeper looks for it here.
if call('EXISTS', KEYS[2]) == 0 then call('DEL', KEYS[1]) return 0 end
return 1
