-- Publishes what PostgreSQL decided about orders, closes their reservations and releases the locks taken for them.
-- Idempotent; a state never goes back.
--
-- KEYS 1 reservations, 2 orders:open, 3 orders:cancelling, 4 channel
-- ARGV 1 time-to-live s of an ended order, 2 number of orders (1 to 1,000); then per order, each once: id, status, since when (ms),
--      token that PostgreSQL counts as confirmed ('' = none), reason (JSON or ''), fingerprint, SKUs to forget if the
--      reservation is lost (JSON or ''); then locks: sku, owner, ...
-- PUBLISHES a line per order: id, status, since when, fingerprint, reason ('' = none).
-- REPLY JSON, per order: {'settled'} | {'kept', status} | {'cancel_requested'} | {'lost'} | {'broken'} (its key is no record)
--   'kept': it had ended before. 'cancel_requested': it was confirmed while a client cancelled it; nothing was published, cancel it
--      now. A rejection stays: a client may have read it in PostgreSQL before the cancellation was requested.
--   'lost': PostgreSQL counts a reservation that Redis no longer has as it was: nobody can tell whether `estoque:` knows of
--      these units. Nothing was done; look at PostgreSQL again, and say which SKUs to forget, so that they are loaded afresh.
local call = redis.call
local ended, not_confirmed, news = {}, {}, {}  -- written and told at the end, together
for at = 2, 3 do call('ZCARD', KEYS[at]) end  -- fails where one is no journal: now, with nothing half done

-- Puts units back on sale. A counter that is missing, or no number, is loaded from PostgreSQL before it is used, which never gave
-- these units away: adding here would count them twice.
local function add(key, units)
  local free = call('MGET', key)[1]
  if free and (free == '0' or string.match(free, '^-?[1-9]%d*$')) and #free <= 15 then call('INCRBY', key, units) end
end

local function forget(skus)
  for _, sku in ipairs(cjson.decode(skus)) do call('DEL', 'estoque:' .. sku, 'level:' .. sku) end
end

-- A reservation is a JSON list, and its token comes first.
local function is_spent(held, counted) return string.sub(held, 1, #counted + 4) == '["' .. counted .. '",' end

local function settle(id, held, back, status, since, counted, reason, fingerprint, skus_if_lost)
  local record = 'order:' .. id
  local was, cancel, recorded = unpack(redis.pcall('HMGET', record, 'status', 'cancel', 'fingerprint'))
  if was == nil then return {'broken'} end  -- what is missing is false
  local open = not was or was == 'queued'
  if was == 'queued' and status == 'confirmed' and cancel then return {'cancel_requested'} end
  if counted ~= '' and open and (back or not held) then
    if skus_if_lost == '' then return {'lost'} end
    -- In this step, not before: Redis may lose its data once more, and bring back a counter that does not know of them.
    forget(skus_if_lost)
  end
  for at = 3, back and #back or 0, 2 do add('estoque:' .. back[at], back[at + 1]) end
  ended[#ended + 1] = id
  if status ~= 'confirmed' then not_confirmed[#not_confirmed + 1] = id end
  if not open and not (was == 'confirmed' and status == 'cancelled') then return {'kept', was} end
  if was and recorded ~= fingerprint then
    -- Redis lost the order while a worker had it, and its key came for another one: PostgreSQL tells which of them it is.
    call('DEL', record)
  elseif was then
    call('HSET', record, 'status', status, 'updated_at', since, 'reason', reason)
    if cancel then call('HDEL', record, 'cancel') end
    call('EXPIRE', record, ARGV[1])
  end
  news[#news + 1] = table.concat({id, status, since, fingerprint, reason}, ' ')
  return {'settled'}
end

local function release(from, to)
  local locks, ours = {}, {}
  for lock = from, to, 2 do locks[#locks + 1] = 'lock:produto:' .. ARGV[lock] end
  -- Whoever froze for longer than the lock lives must not release the lock of the next holder: compare, then delete.
  for n, holder in ipairs(call('MGET', unpack(locks))) do
    if holder == ARGV[from + 2 * n - 1] then ours[#ours + 1] = locks[n] end
  end
  if #ours > 0 then call('DEL', unpack(ours)) end
end

local ids, replies, locks_at = {}, {}, 3 + 7 * ARGV[2]
for at = 3, locks_at - 1, 7 do ids[#ids + 1] = ARGV[at] end
local held, back = call('HMGET', KEYS[1], unpack(ids)), {}
-- What comes back on sale is read before anything is written: where that cannot be done, nothing of this call is.
for n in ipairs(ids) do back[n] = held[n] and not is_spent(held[n], ARGV[7 * n - 1]) and cjson.decode(held[n]) end
for n, id in ipairs(ids) do replies[n] = settle(id, held[n], back[n], unpack(ARGV, 7 * n - 3, 7 * n + 2)) end
for from = locks_at, #ARGV, 1000 do release(from, math.min(from + 999, #ARGV)) end
if #ended > 0 then call('HDEL', KEYS[1], unpack(ended)) call('ZREM', KEYS[2], unpack(ended)) end
if #not_confirmed > 0 then call('ZREM', KEYS[3], unpack(not_confirmed)) end
if #news > 0 then call('PUBLISH', KEYS[4], table.concat(news, '\n')) end
return cjson.encode(replies)
