-- Reserves stock for orders, in the order given: every line of an order or none of it. Idempotent by order id.
--
-- KEYS 1 reservations, 2 orders:open
-- ARGV 1 now ms, 2 lock time-to-live ms (0 = take no locks), 3 attempts allowed, 4 sweep at ms;
--      then per order: id, token of a new reservation, number of lines, then per line: sku, units
-- REPLY JSON, per order: {'reserved', token, lock owner, sku, ...} | {'short', sku, free, ...} | {'busy', sku} | {'not_loaded', sku, ...}
--                | {'ended', status} | {'cancelled'} | {'exhausted'} | {'unrecorded'} | {'paused'} | {'broken'}
--   'reserved': names the SKUs whose locks this call took for `lock owner`. 'busy': another order holds the SKU's lock.
--   'not_loaded': `estoque:` is missing or no integer. 'unrecorded': Redis lost the order. 'broken': its key is no record.
local call, paused = redis.call, redis.call('EXISTS', 'pause:fulfilment') == 1
local now, lock_ttl, allowed, sweep_at = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local owners = {}  -- sku -> the order of this call that took its lock
call('ZCARD', KEYS[2])  -- fails where that is no journal: now, with no attempt counted and nothing taken

-- What Redis has of an order's lines: holder of the lock and counter of the first, of the second, ...
local function look_at(first, last)
  local names = {}
  for at = first, last, 2 do
    names[at - first + 1], names[at - first + 2] = 'lock:produto:' .. ARGV[at], 'estoque:' .. ARGV[at]
  end
  return call('MGET', unpack(names))
end

local function take_locks(id, first, last, reply)
  for at = first, last, 2 do
    local sku = ARGV[at]
    if lock_ttl > 0 and not owners[sku] then
      call('SET', 'lock:produto:' .. sku, id, 'PX', lock_ttl)
      owners[sku], reply[#reply + 1] = id, sku
    end
  end
  return reply
end

local function reserve(id, new_token, first, last)
  if paused then return {'paused'} end
  local record = 'order:' .. id
  local status, cancel = unpack(redis.pcall('HMGET', record, 'status', 'cancel'))
  if status == nil then return {'broken'} end  -- what is missing is false
  if status ~= 'queued' then return status and {'ended', status} or {'unrecorded'} end
  local found, before = look_at(first, last), first - 1
  for at = first, last, 2 do
    local holder = lock_ttl > 0 and not owners[ARGV[at]] and found[at - before]
    if holder and holder ~= id then return {'busy', ARGV[at]} end
  end
  local held = call('HGET', KEYS[1], id)
  if not held then
    if cancel then return {'cancelled'} end
    local missing, short = {'not_loaded'}, {'short'}
    for at = first, last, 2 do
      local free = found[at + 1 - before]
      if not free or not string.match(free, '^-?%d+$') or #free > 15 then
        missing[#missing + 1] = ARGV[at]
      elseif tonumber(free) < tonumber(ARGV[at + 1]) then
        short[#short + 1], short[#short + 2] = ARGV[at], free
      end
    end
    if #missing > 1 then return missing end
    if call('HINCRBY', record, 'attempts', 1) > allowed then return {'exhausted'} end
    if #short > 1 then return short end
    local reservation = {new_token, now}
    for at = first, last, 2 do
      call('DECRBY', 'estoque:' .. ARGV[at], ARGV[at + 1])
      reservation[#reservation + 1], reservation[#reservation + 2] = ARGV[at], ARGV[at + 1]
    end
    call('HSET', KEYS[1], id, cjson.encode(reservation))
  elseif call('HINCRBY', record, 'attempts', 1) > allowed then
    return {'exhausted'}
  end
  call('ZADD', KEYS[2], 'XX', sweep_at, id)
  return take_locks(id, first, last, {'reserved', held and cjson.decode(held)[1] or new_token, id})
end

local replies, at = {}, 5
while at <= #ARGV do
  local lines = tonumber(ARGV[at + 2])
  replies[#replies + 1] = reserve(ARGV[at], ARGV[at + 1], at + 3, at + 2 + 2 * lines)
  at = at + 3 + 2 * lines
end
return cjson.encode(replies)
