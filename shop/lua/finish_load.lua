-- Finishes the load of one SKU, unless something happened to it since `begin_load`.
--
-- KEYS 1 estoque, 2 level, 3 reservations
-- ARGV 1 nonce, 2 free units, 3 version, 4 level units; then of each reservation taken off: order id, token
-- REPLY 'loaded' | 'present' (somebody else loaded it) | 'changed' (begin again)
local call = redis.call
if call('EXISTS', KEYS[1]) == 1 then return 'present' end
if call('HGET', KEYS[2], 'loading') ~= ARGV[1] then return 'changed' end
-- A reservation that was taken off and has gone since was either confirmed (right) or given back (then these units are
-- missing from the sum): which one cannot be told any more.
for at = 5, #ARGV, 2 do
  local held = call('HGET', KEYS[3], ARGV[at])
  if not held or cjson.decode(held)[1] ~= ARGV[at + 1] then return 'changed' end
end
call('SET', KEYS[1], ARGV[2])
call('HDEL', KEYS[2], 'loading')
call('HSET', KEYS[2], 'version', ARGV[3], 'units', ARGV[4])
return 'loaded'
