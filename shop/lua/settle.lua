-- Publishes what PostgreSQL decided about orders, sets the counters of their SKUs to what it has free, and releases the locks
-- taken for them. Idempotent; a state never goes back, and neither does a counter.
--
-- KEYS 1 orders:open, 2 orders:cancelling, 3 epoch, 4 channel, 5 parked_index
-- ARGV 1 time-to-live s of an ended order, 2 number of orders (1,000 at most), 3 epoch in which all this was decided ('' = now);
--      then per order, each once: id, status, since when (ms), reason (JSON or ''), fingerprint; then the number of SKUs, and per SKU,
--      each once: its name, version, free units (both '' = there is no such product, both '-' = leave the counter), the order whose
--      lock to release ('' = none); then per order that must wait: id, id of the reserving call whose attempt is not counted
-- PUBLISHES a line per order: id, status, since when, fingerprint, reason ('' = none).
-- REPLY JSON, per order: {'settled'} | {'kept', status} | {'cancel_requested'} | {'broken'} (its key is no record); then, where there
--      are any, {'outdated', sku, ...}: their counters were dropped, publish them anew. {'superseded'} alone: the epoch is over.
--   'kept': it had ended before. 'cancel_requested': it was confirmed while a client cancelled it; nothing was published, cancel it
--      now. A rejection stays: a client may have read it in PostgreSQL before the cancellation was requested.
local call, ended, done, not_confirmed, news, outdated = redis.call, {}, {}, {}, {}, {'outdated'}  -- written and told at the end
for at = 1, 2 do call('ZREM', KEYS[at], '') end  -- fails now where one is no journal; opens a full Redis: Note [Memory of Redis]

local function settle(id, status, since, reason, fingerprint)
  local record = 'order:' .. id
  local was, cancel, recorded = unpack(redis.pcall('HMGET', record, 'status', 'cancel', 'fingerprint'))
  if was == nil then return {'broken'} end  -- what is missing is false
  local open = not was or was == 'queued'
  if was == 'queued' and status == 'confirmed' and cancel then return {'cancel_requested'} end
  ended[#ended + 1], done[id] = id, true
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

-- A version of another epoch is of a PostgreSQL that went back since, or no version at all.
local function is_newer(known, epoch, version)
  local of, number = string.match(known or '', '^(%d+):(%d+)$')
  return of == epoch and tonumber(number) > tonumber(version)
end

-- Sets counters and releases locks. A worker that froze for longer than a lock lives must not release that of the next holder:
-- compare, then delete. Where the holder ended, those parked for its lock are due; where it must wait itself, so must they.
local function publish(from, to, epoch)
  local names, written, gone, due = {}, {}, {}, {}
  for at = from, to, 4 do
    names[#names + 1], names[#names + 2] = 'version:' .. ARGV[at], 'lock:produto:' .. ARGV[at]
  end
  local found = call('MGET', unpack(names))
  for at = from, to, 4 do
    local sku, version, free, owner = unpack(ARGV, at, at + 3)
    local n = (at - from) / 2 + 1
    if owner ~= '' and found[n + 1] == owner then
      gone[#gone + 1] = names[n + 1]
      if done[owner] then due[#due + 1], due[#due + 2] = 0, names[n + 1] end
    end
    if free == '' then
      gone[#gone + 1], gone[#gone + 2] = 'estoque:' .. sku, names[n]
    elseif free ~= '-' and not is_newer(found[n], epoch, version) then
      written[#written + 1], written[#written + 2] = 'estoque:' .. sku, free
      written[#written + 1], written[#written + 2] = names[n], epoch .. ':' .. version
    elseif free ~= '-' and #news > 0 then
      -- An order that ends here may have taken units since the newer version was shown, and no worker settles it again.
      gone[#gone + 1], outdated[#outdated + 1] = 'estoque:' .. sku, sku
    end
  end
  if #written > 0 then call('MSET', unpack(written)) end
  if #gone > 0 then call('DEL', unpack(gone)) end
  if #due > 0 then redis.pcall('ZADD', KEYS[5], 'XX', unpack(due)) end
end

-- The attempt of an order that must wait was no fault of its own.
local function forgive(id, nonce)
  local record, counted, attempts = 'order:' .. id, unpack(redis.pcall('HMGET', 'order:' .. id, 'call', 'attempts'))
  if counted == nonce then
    call('HSET', record, 'attempts', attempts - 1)
    call('HDEL', record, 'call')
  end
end

local replies, skus_at = {}, 5 + 5 * ARGV[2]
local waiting_at = skus_at + 4 * ARGV[skus_at - 1]
local epoch = call('MGET', KEYS[3])[1] or '0'
if ARGV[3] ~= '' and ARGV[3] ~= epoch then return cjson.encode({'superseded'}) end
for at = 4, skus_at - 2, 5 do replies[#replies + 1] = settle(unpack(ARGV, at, at + 4)) end
for from = skus_at, waiting_at - 1, 1000 do publish(from, math.min(from + 999, waiting_at - 1), epoch) end
for at = waiting_at, #ARGV, 2 do forgive(ARGV[at], ARGV[at + 1]) end
if #ended > 0 then call('ZREM', KEYS[1], unpack(ended)) end
if #not_confirmed > 0 then call('ZREM', KEYS[2], unpack(not_confirmed)) end
if #news > 0 then call('PUBLISH', KEYS[4], table.concat(news, '\n')) end
if #outdated > 1 then replies[#replies + 1] = outdated end
return cjson.encode(replies)
