-- Brings a SKU's counter to a newer stock level of PostgreSQL, by the difference; older levels change nothing.
-- With a reservation id it first gives that reservation's units back: they are part of the level's difference.
--
-- KEYS 1 estoque, 2 level, 3 reservations
-- ARGV 1 version, 2 level units, 3 reservation id ('' = none)
-- REPLY 'synced' | 'current' | 'not_loaded' | 'later' (the difference would take units that are reserved)
local call = redis.call

-- Units free to sell; nil for a counter that is missing, or no number: it is loaded from PostgreSQL before it is used.
local function free_of(key)
  local free = call('MGET', key)[1]
  return free and (free == '0' or string.match(free, '^-?[1-9]%d*$')) and #free <= 15 and tonumber(free) or nil
end

local held = ARGV[3] ~= '' and call('HGET', KEYS[3], ARGV[3])
if held then
  held = cjson.decode(held)
  call('HDEL', KEYS[3], ARGV[3])
  -- Its own SKU's counter: the key may have been tried for another SKU before.
  local counter = 'estoque:' .. held[3]
  if free_of(counter) then call('INCRBY', counter, held[4]) end
end
local free = free_of(KEYS[1])
if not free then
  -- A load under way may have read the books before this level: without its mark it begins again.
  call('DEL', KEYS[1], KEYS[2])
  return 'not_loaded'
end
local version = redis.pcall('HGET', KEYS[2], 'version')
if not version or version.err then
  call('DEL', KEYS[1], KEYS[2])
  return 'not_loaded'
end
if tonumber(version) >= tonumber(ARGV[1]) then return 'current' end
local difference = tonumber(ARGV[2]) - tonumber(call('HGET', KEYS[2], 'units'))
if free + difference < 0 then return 'later' end
call('INCRBY', KEYS[1], string.format('%.0f', difference))
call('HSET', KEYS[2], 'version', ARGV[1], 'units', ARGV[2])
return 'synced'
