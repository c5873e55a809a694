-- Writes the record of an order that Redis lost, from the order's own message.
--
-- KEYS 1 order record, 2 orders:open
-- ARGV 1 id, 2 client, 3 fingerprint, 4 document, 5 now ms, 6 sweep at ms
-- REPLY 'restored' | 'present'
if redis.call('HEXISTS', KEYS[1], 'status') == 1 then return 'present' end
redis.call('HSET', KEYS[1], 'status', 'queued', 'client', ARGV[2], 'fingerprint', ARGV[3], 'document', ARGV[4],
  'updated_at', ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[6], ARGV[1])
return 'restored'
