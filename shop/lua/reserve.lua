-- Counts attempts; then takes locks and, provisionally, units: of every line of an order, in the order given, or none of it.
-- PostgreSQL decides. Not idempotent: asked again it takes the units again. The counter is right again when its SKU is settled.
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
-- Written at its end: sku -> the order that took its lock, sku -> units left. And order -> attempts counted by earlier calls.
local owners, left, sweeps, before = {}, {}, {}, {}

-- Counts an attempt, or says why there is none. It touches what is the order's alone, before anything that may fail: an order whose
-- reserving always fails ends, too. Copies of a message may begin in the same moment: one more than are allowed would give the order
-- up while those before it bring it to its end. So it is held as long as locks live.
local function begin(id)
  if paused then return {'paused'} end
  local record = 'order:' .. id
  local status, cancel, attempts, counted = unpack(redis.pcall('HMGET', record, 'status', 'cancel', 'attempts', 'call'))
  if status == nil then return {'broken'} end  -- what is missing is false
  if status ~= 'queued' then return status and {'ended', status} or {'unrecorded'} end
  if cancel then return {'cancelled'} end
  before[id] = tonumber(attempts) or 0
  if counted == nonce then before[id] = before[id] - 1 return end  -- the answer to this call was lost
  if before[id] >= allowed and call('EXISTS', 'last_attempt:' .. id) == 0 then return {'exhausted'} end
  if before[id] >= in_company then return {'held'} end
  call('HSET', record, 'attempts', before[id] + 1, 'call', nonce)
  if before[id] + 1 == allowed and ARGV[5] ~= '0' then call('SET', 'last_attempt:' .. id, '', 'PX', ARGV[5]) end
end

-- What the counter of a SKU has left; nil where it is missing or no number, which PostgreSQL alone then knows.
local function free_of(sku, found)
  local free = left[sku] or found
  if free and (free == '0' or string.match(free, '^-?[1-9]%d*$')) and #free <= 15 then return tonumber(free) end
end

local function reserve(id, first, last)
  local names = {}
  for at = first, last, 2 do
    names[#names + 1], names[#names + 2] = 'lock:produto:' .. ARGV[at], 'estoque:' .. ARGV[at]
  end
  local found = call('MGET', unpack(names))
  local is_short, taken = false, {}
  for at = first, last, 2 do
    local sku = ARGV[at]
    local holder, free = lock_ttl > 0 and not owners[sku] and found[at - first + 1], free_of(sku, found[at - first + 2])
    if holder and holder ~= id then
      call('HDEL', 'order:' .. id, 'call', 'attempts')  -- that it meets a lock is no fault of its own
      if before[id] > 0 then call('HSET', 'order:' .. id, 'attempts', before[id]) end
      return {'busy', sku}
    end
    if free and free < tonumber(ARGV[at + 1]) then is_short = true end
    taken[sku] = free and string.format('%.0f', free - ARGV[at + 1])
  end
  if is_short then return {'short'} end
  sweeps[#sweeps + 1], sweeps[#sweeps + 2] = ARGV[6], id
  local reply = {'reserved'}
  for at = first, last, 2 do
    local sku = ARGV[at]
    left[sku] = taken[sku] or left[sku]
    if lock_ttl > 0 and not owners[sku] then owners[sku], reply[#reply + 1] = id, sku end
  end
  return reply
end

local replies, counters, firsts, at = {}, {}, {}, 7
while at <= #ARGV do
  firsts[#firsts + 1], replies[#replies + 1] = at, begin(ARGV[at]) or false
  at = at + 2 + 2 * ARGV[at + 1]
end
for n, first in ipairs(firsts) do
  replies[n] = replies[n] or reserve(ARGV[first], first + 2, first + 1 + 2 * ARGV[first + 1])
end
for sku, id in pairs(owners) do call('SET', 'lock:produto:' .. sku, id, 'PX', lock_ttl) end
for sku, units in pairs(left) do counters[#counters + 1], counters[#counters + 2] = 'estoque:' .. sku, units end
-- By the thousand: Lua's stack holds no more than 8,000 values.
for from = 1, #counters, 1000 do call('MSET', unpack(counters, from, math.min(from + 999, #counters))) end
if #sweeps > 0 then call('ZADD', KEYS[1], 'XX', unpack(sweeps)) end
local history = call('MGET', 'epoch', 'followed')
replies[#replies + 1] = {history[1] or '0', history[2] or ''}
return cjson.encode(replies)
