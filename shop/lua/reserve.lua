-- Reserves stock for orders, in the order given: every line of an order or none of it. Idempotent by order id.
--
-- KEYS 1 reservations, 2 orders:open
-- ARGV 1 now ms, 2 lock time-to-live ms (0 = take no locks), 3 attempts allowed, 4 those in a batch, 5 ms that the last may take
--      (0 = it is not waited for), 6 sweep at ms; then per order (1,000 at most): id, token of a new reservation, lines, sku, units, ...
-- REPLY JSON, per order: {'reserved', token, lock owner, sku, ...} | {'short', sku, free, ...} | {'busy', sku} | {'not_loaded', sku, ...}
--                | {'ended', status} | {'cancelled'} | {'held'} | {'exhausted'} | {'unrecorded'} | {'paused'} | {'broken'}
--   'reserved': names the SKUs whose locks this call took for `lock owner`. 'busy': another order has the SKU's lock. 'held': it may not
--   begin in a batch, or not now. 'not_loaded': no integer in `estoque:`. 'unrecorded': Redis lost it. 'broken': its key is no record.
local call, paused = redis.call, redis.call('EXISTS', 'pause:fulfilment') == 1
local now, lock_ttl, allowed, in_company = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
call('ZCARD', KEYS[2])  -- fails where that is no journal: now, with no attempt counted and nothing taken
-- What this call does, written at its end: sku -> the order that took its lock, sku -> units left, order -> its reservation.
local owners, left, reserved, sweeps = {}, {}, {}, {}

-- Counts an attempt, or says why there is none. Copies of a message may wait for one lock and begin in the same moment: one more
-- than are allowed would give the order up while those before it bring it to its end. So it is held as long as locks live.
local function refused(id, record, attempts)
  if attempts >= allowed and call('EXISTS', 'last_attempt:' .. id) == 0 then return {'exhausted'} end
  if attempts >= in_company then return {'held'} end
  local is_last = call('HINCRBY', record, 'attempts', 1) == allowed
  if is_last and ARGV[5] ~= '0' then call('SET', 'last_attempt:' .. id, '', 'PX', ARGV[5]) end
end

local function reserve(id, new_token, first, last)
  if paused then return {'paused'} end
  local record, names, before = 'order:' .. id, {}, first - 1
  local status, cancel, attempts = unpack(redis.pcall('HMGET', record, 'status', 'cancel', 'attempts'))
  if status == nil then return {'broken'} end  -- what is missing is false
  if status ~= 'queued' then return status and {'ended', status} or {'unrecorded'} end
  for at = first, last, 2 do
    names[at - before], names[at + 1 - before] = 'lock:produto:' .. ARGV[at], 'estoque:' .. ARGV[at]
  end
  local found = call('MGET', unpack(names))
  for at = first, last, 2 do
    local holder = lock_ttl > 0 and not owners[ARGV[at]] and found[at - before]
    if holder and holder ~= id then return {'busy', ARGV[at]} end
  end
  local held = reserved[id] or call('HGET', KEYS[1], id)
  local token = held and cjson.decode(held)[1]
  if cancel and not held then return {'cancelled'} end
  local missing, short, reservation = {'not_loaded'}, {'short'}, {new_token, now}
  for at = first, held and 0 or last, 2 do
    local sku, free = ARGV[at], left[ARGV[at]] or found[at + 1 - before]
    if not free or (free ~= '0' and not string.match(free, '^-?[1-9]%d*$')) or #free > 15 then
      missing[#missing + 1] = sku
    elseif tonumber(free) < tonumber(ARGV[at + 1]) then
      short[#short + 1], short[#short + 2] = sku, free
    end
    reservation[#reservation + 1], reservation[#reservation + 2] = sku, ARGV[at + 1]
  end
  if #missing > 1 then return missing end
  local refusal = token ~= new_token and refused(id, record, tonumber(attempts) or 0)  -- else the answer to this call was lost
  if refusal or #short > 1 then return refusal or short end
  for at = first, held and 0 or last, 2 do
    left[ARGV[at]] = string.format('%.0f', (left[ARGV[at]] or found[at + 1 - before]) - ARGV[at + 1])
  end
  if not held then reserved[id] = cjson.encode(reservation) end
  sweeps[#sweeps + 1], sweeps[#sweeps + 2] = ARGV[6], id
  local reply = {'reserved', token or new_token, id}
  for at = first, last, 2 do
    if lock_ttl > 0 and not owners[ARGV[at]] then owners[ARGV[at]], reply[#reply + 1] = id, ARGV[at] end
  end
  return reply
end

local replies, counters, reservations, at = {}, {}, {}, 7
while at <= #ARGV do
  local last = at + 2 + 2 * ARGV[at + 2]
  replies[#replies + 1] = reserve(ARGV[at], ARGV[at + 1], at + 3, last)
  at = last + 1
end
for sku, id in pairs(owners) do call('SET', 'lock:produto:' .. sku, id, 'PX', lock_ttl) end
for sku, units in pairs(left) do counters[#counters + 1], counters[#counters + 2] = 'estoque:' .. sku, units end
for id, held in pairs(reserved) do reservations[#reservations + 1], reservations[#reservations + 2] = id, held end
-- By the thousand: Lua's stack holds no more than 8,000 values.
for from = 1, #counters, 1000 do call('MSET', unpack(counters, from, math.min(from + 999, #counters))) end
if #reservations > 0 then call('HSET', KEYS[1], unpack(reservations)) end
if #sweeps > 0 then call('ZADD', KEYS[2], 'XX', unpack(sweeps)) end
return cjson.encode(replies)
