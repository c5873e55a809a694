-- Takes units of one SKU off sale into a reservation, for a stock movement that lowers stock.
--
-- KEYS 1 estoque, 2 reservations
-- ARGV 1 movement id, 2 token, 3 now ms, 4 sku, 5 units
-- REPLY {'reserved', free} | {'short', free} | {'not_loaded'}
local call = redis.call

-- Puts units back on sale. A counter that is missing, or no number, is loaded from PostgreSQL before it is used.
local function add(key, units)
  local free = call('MGET', key)[1]
  if free and (free == '0' or string.match(free, '^-?[1-9]%d*$')) and #free <= 15 then call('INCRBY', key, units) end
end

local free = call('MGET', KEYS[1])[1]
if not free or (free ~= '0' and not string.match(free, '^-?[1-9]%d*$')) or #free > 15 then return {'not_loaded'} end
local held = call('HGET', KEYS[2], ARGV[1])
if held then
  held = cjson.decode(held)
  if held[3] == ARGV[4] and held[4] == ARGV[5] then return {'reserved', tonumber(free)} end
  add('estoque:' .. held[3], held[4])
  call('HDEL', KEYS[2], ARGV[1])
  free = call('GET', KEYS[1])
end
if tonumber(free) < tonumber(ARGV[5]) then return {'short', tonumber(free)} end
call('HSET', KEYS[2], ARGV[1], cjson.encode({ARGV[2], ARGV[3], ARGV[4], ARGV[5]}))
return {'reserved', call('DECRBY', KEYS[1], ARGV[5])}
