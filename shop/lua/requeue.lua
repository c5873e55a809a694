-- Puts the message of an open order on the queue again; does nothing for an order that ended meanwhile.
--
-- KEYS 1 orders:open, 2 broker queue ('' = the caller publishes)
-- ARGV 1 order id, 2 message, 3 next look at ms
-- REPLY 'queued' | 'ended'
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 'ended' end
-- First what may be refused: a queue that is no list.
if KEYS[2] ~= '' then redis.call('LPUSH', KEYS[2], ARGV[2]) end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 'queued'
