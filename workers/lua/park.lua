-- Parks fetched messages: each waits for something that it names, in nobody's hands. `unpark.lua` brings them back.
--
-- KEYS 1 unacked, 2 unacked_index, 3 parked, 4 parked_index
-- ARGV 1 now ms; then per message: delivery tag, what it waits for, since when it waits (ms), ms until somebody looks whether the
--      waiting is over (0 = it waits for the key of that name to be gone; where that is gone already, it comes back at once)
-- REPLY how many were parked; what is acknowledged or restored already is left alone
local call = redis.call
-- Fails where one is broken: now, with nothing half done. Opens a full Redis: Note [Memory of Redis].
for at = 1, 4, 2 do call('HDEL', KEYS[at], '') end
for at = 2, 4, 2 do call('ZREM', KEYS[at], '') end
local now, count = tonumber(ARGV[1]), 0
for at = 2, #ARGV, 4 do
  local tag, awaited, since, wait = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local record = call('HGET', KEYS[1], tag)
  if record then
    -- First what may be refused. A copy of a parked message takes its place: an order waits once, whoever enqueued it again.
    call('ZADD', 'parked:' .. awaited, 'NX', since, tag)
    call('HSET', KEYS[3], tag, record)
    call('HDEL', KEYS[1], tag)
    call('ZREM', KEYS[2], tag)
    if wait ~= 0 then
      call('ZADD', KEYS[4], 'NX', now + wait, awaited)  -- who comes later changes nothing
    elseif call('EXISTS', awaited) == 1 then
      call('ZADD', KEYS[4], 'NX', string.format('%.0f', now + math.max(20, math.min((now - since) / 10, 500))), awaited)
    else
      call('ZADD', KEYS[4], 0, awaited)
    end
    count = count + 1
  end
end
return count
