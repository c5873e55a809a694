-- Takes locks and, provisionally, units for orders, in the order given: every line of an order or none of it. PostgreSQL decides.
-- Not idempotent: asked again it takes the units again. The counter is right again when its SKU is settled.
--
-- KEYS 1 orders:open
-- ARGV 1 id of this call, 2 lock time-to-live ms (0 = take no locks), 3 attempts allowed, 4 those in a batch, 5 ms that the last
--      may take (0 = it is not waited for), 6 sweep at ms; then per order (1,000 at most): id, lines, sku, units, ...
-- REPLY JSON, per order: {'reserved', sku, ...} | {'short'} | {'busy', sku} | {'ended', status} | {'cancelled'} | {'held'}
--                | {'exhausted'} | {'unrecorded'} | {'paused'} | {'broken'}
--   'reserved': names the SKUs whose locks this call took for the order. 'short': by the counters a line is not free; nothing was
--   taken. 'busy': another order has the SKU's lock. 'held': it may not begin in a batch, or not now. 'unrecorded': Redis lost the
--   order. 'broken': its key is no record. At the end the epoch, and the PostgreSQL that is followed ('' = none is known).
local call, paused = redis.call, redis.call('EXISTS', 'pause:fulfilment') == 1
local nonce, lock_ttl, allowed, in_company = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- Fails where that is no journal: now, with no attempt counted and nothing taken. Opens a full Redis: Note [Memory of Redis].
call('ZREM', KEYS[1], '')
-- What this call does, written at its end: sku -> the order that took its lock, sku -> units left.
local owners, left, sweeps = {}, {}, {}

-- Counts an attempt, or says why there is none. Copies of a message may wait for one lock and begin in the same moment: one more
-- than are allowed would give the order up while those before it bring it to its end. So it is held as long as locks live.
local function refused(id, record, attempts)
  if attempts >= allowed and call('EXISTS', 'last_attempt:' .. id) == 0 then return {'exhausted'} end
  if attempts >= in_company then return {'held'} end
  call('HSET', record, 'attempts', attempts + 1, 'call', nonce)
  if attempts + 1 == allowed and ARGV[5] ~= '0' then call('SET', 'last_attempt:' .. id, '', 'PX', ARGV[5]) end
end

-- What the counter of a SKU has left; nil where it is missing or no number, which PostgreSQL alone then knows.
local function free_of(sku, found)
  local free = left[sku] or found
  if free and (free == '0' or string.match(free, '^-?[1-9]%d*$')) and #free <= 15 then return tonumber(free) end
end

local function reserve(id, first, last)
  if paused then return {'paused'} end
  local record, names, before = 'order:' .. id, {}, first - 1
  local status, cancel, attempts, counted = unpack(redis.pcall('HMGET', record, 'status', 'cancel', 'attempts', 'call'))
  if status == nil then return {'broken'} end  -- what is missing is false
  if status ~= 'queued' then return status and {'ended', status} or {'unrecorded'} end
  for at = first, last, 2 do
    names[at - before], names[at + 1 - before] = 'lock:produto:' .. ARGV[at], 'estoque:' .. ARGV[at]
  end
  local found = call('MGET', unpack(names))
  local is_short, taken = false, {}
  for at = first, last, 2 do
    local sku = ARGV[at]
    local holder, free = lock_ttl > 0 and not owners[sku] and found[at - before], free_of(sku, found[at + 1 - before])
    if holder and holder ~= id then return {'busy', sku} end
    if free and free < tonumber(ARGV[at + 1]) then is_short = true end
    taken[sku] = free and string.format('%.0f', free - ARGV[at + 1])
  end
  if cancel then return {'cancelled'} end
  local refusal = counted ~= nonce and refused(id, record, tonumber(attempts) or 0)  -- else the answer to this call was lost
  if refusal or is_short then return refusal or {'short'} end
  sweeps[#sweeps + 1], sweeps[#sweeps + 2] = ARGV[6], id
  local reply = {'reserved'}
  for at = first, last, 2 do
    local sku = ARGV[at]
    left[sku] = taken[sku] or left[sku]
    if lock_ttl > 0 and not owners[sku] then owners[sku], reply[#reply + 1] = id, sku end
  end
  return reply
end

local replies, counters, at = {}, {}, 7
while at <= #ARGV do
  local last = at + 1 + 2 * ARGV[at + 1]
  replies[#replies + 1] = reserve(ARGV[at], at + 2, last)
  at = last + 1
end
for sku, id in pairs(owners) do call('SET', 'lock:produto:' .. sku, id, 'PX', lock_ttl) end
for sku, units in pairs(left) do counters[#counters + 1], counters[#counters + 2] = 'estoque:' .. sku, units end
-- By the thousand: Lua's stack holds no more than 8,000 values.
for from = 1, #counters, 1000 do call('MSET', unpack(counters, from, math.min(from + 999, #counters))) end
if #sweeps > 0 then call('ZADD', KEYS[1], 'XX', unpack(sweeps)) end
local history = call('MGET', 'epoch', 'followed')
replies[#replies + 1] = {history[1] or '0', history[2] or ''}
return cjson.encode(replies)
