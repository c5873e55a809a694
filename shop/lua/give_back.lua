-- Closes a reservation and puts its units back on sale.
--
-- KEYS 1 reservations
-- ARGV 1 order or movement id, 2 token ('' = whatever it is)
-- REPLY 'given_back' | 'none'
local call = redis.call

-- Puts units back on sale. A counter that is missing, or no number, is loaded from PostgreSQL before it is used.
local function add(key, units)
  local free = call('MGET', key)[1]
  if free and (free == '0' or string.match(free, '^-?[1-9]%d*$')) and #free <= 15 then call('INCRBY', key, units) end
end

local held = call('HGET', KEYS[1], ARGV[1])
if not held then return 'none' end
held = cjson.decode(held)
if ARGV[2] ~= '' and held[1] ~= ARGV[2] then return 'none' end
for at = 3, #held, 2 do add('estoque:' .. held[at], held[at + 1]) end
call('HDEL', KEYS[1], ARGV[1])
return 'given_back'
