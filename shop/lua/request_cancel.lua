-- Notes that an order is to be cancelled. A queued order carries the wish to its worker; a confirmed one gets a message.
--
-- KEYS 1 order record, 2 orders:cancelling, 3 broker queue ('' = the caller publishes)
-- ARGV 1 order id, 2 client, 3 now ms, 4 message, 5 status in PostgreSQL ('' = not asked)
-- REPLY 'requested' | 'cancelled' | 'refused' | 'unknown'
-- Fail now where the queue is no list, with nothing half done.
if KEYS[3] ~= '' then redis.call('LLEN', KEYS[3]) end
local client = redis.call('HGET', KEYS[1], 'client')
local status = redis.call('HGET', KEYS[1], 'status')
if not client then
  if ARGV[5] == '' then return 'unknown' end
  status = ARGV[5]
elseif client ~= ARGV[2] then
  return 'unknown'
elseif status == 'queued' and (ARGV[5] == 'rejected' or ARGV[5] == 'failed') then
  -- Decided but not settled, and perhaps read from PostgreSQL while Redis was away: that end stays.
  return 'refused'
end
if status == 'cancelled' then return 'cancelled' end
if status == 'rejected' or status == 'failed' then return 'refused' end
if redis.call('ZADD', KEYS[2], 'NX', ARGV[3], ARGV[1]) == 0 then return 'requested' end
if status == 'queued' then
  redis.call('HSET', KEYS[1], 'cancel', '1')
elseif KEYS[3] ~= '' then
  redis.call('LPUSH', KEYS[3], ARGV[4])
end
return 'requested'
