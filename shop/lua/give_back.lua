-- Closes a reservation and puts its units back on sale.
--
-- KEYS 1 reservations
-- ARGV 1 order or movement id, 2 token ('' = whatever it is)
-- REPLY 'given_back' | 'none'
local call = redis.call
local held = call('HGET', KEYS[1], ARGV[1])
if not held then return 'none' end
held = cjson.decode(held)
if ARGV[2] ~= '' and held[1] ~= ARGV[2] then return 'none' end
for at = 3, #held, 2 do
  local key = 'estoque:' .. held[at]
  if call('EXISTS', key) == 1 then call('INCRBY', key, held[at + 1]) end
end
call('HDEL', KEYS[1], ARGV[1])
return 'given_back'
