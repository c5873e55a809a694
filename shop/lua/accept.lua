-- Accepts orders: claims the idempotency key, records the order and puts its message on the queue, in one step
-- for each order, or changes nothing for it.
--
-- KEYS 1 orders:open, 2 broker queue ('' = the caller publishes); then per order: idempotency key, order record, rate bucket
-- ARGV 1 now ms, 2 time-to-live s, 3 queue limit, 4 orders per second and client (0 = no limit), 5 sweep at ms;
--      then per order (1,000 at most): id, fingerprint, client, document, message
-- REPLY JSON, per order: {'accepted'} | {'replayed', id} | {'reused', id} | {'lost', id} | {'rate_limited', wait ms} | {'queue_full'}
--                | {'paused'} | {'broken'} (somebody has put something else under the order's key)
--   'lost': the key stands for another id whose record is gone; the caller asks again under that id.
local call = redis.call
local ttl, queue_limit, rate, sweep_at = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local waiting, paused = call('ZCARD', KEYS[1]), call('EXISTS', 'pause:intake') == 1

-- Token bucket as one number: how long it takes, in ms, until the bucket is full again (GCRA, ITU-T I.371). One second of burst.
-- The key lives for as long, by Redis's clock alone: web processes whose clocks differ share one bucket. Its value is what the
-- key's life was rounded up by.
local function over_rate(bucket)
  if rate == 0 then return false end
  local left = call('PTTL', bucket)
  local until_full = left > 0 and left - tonumber(call('MGET', bucket)[1] or '0') or 0
  if until_full > 1000 then until_full = 0 end  -- no bucket is: Redis's clock was set back
  local next_until_full = math.max(until_full, 0) + 1000 / rate
  local excess = next_until_full - 1000
  if excess > 0.001 then return math.ceil(excess) end
  local life = math.ceil(next_until_full)
  call('SET', bucket, string.format('%.3f', life - next_until_full), 'PX', life)
  return false
end

local claims, replies = {}, {}
for i = 1, (#ARGV - 5) / 5 do claims[i] = KEYS[3 * i] end
local claimed = call('MGET', unpack(claims))  -- what is no text is as good as lost
-- Of the orders accepted here: which, id by claim, fingerprint by id, messages, and entries of the journal.
local accepted, fresh, fingerprints, messages, opened = {}, {}, {}, {}, {}
for i, claim in ipairs(claims) do
  local at = 5 * i
  local id, fingerprint = ARGV[at + 1], ARGV[at + 2]
  local known = fresh[claim] or claimed[i] or id
  local recorded = fingerprints[known]
    or redis.pcall('HGET', known == id and KEYS[3 * i + 1] or 'order:' .. known, 'fingerprint')
  if recorded == fingerprint then
    if not fresh[claim] then call('SET', claim, known, 'EX', ttl, 'NX') end
    replies[i] = {'replayed', known}
  elseif recorded and recorded.err then
    replies[i] = {'broken'}
  elseif recorded then
    replies[i] = {'reused', known}
  elseif known ~= id then
    replies[i] = {'lost', known}
  elseif paused then
    replies[i] = {'paused'}
  elseif waiting + #accepted >= queue_limit then
    replies[i] = {'queue_full'}
  else
    local wait = over_rate(KEYS[3 * i + 2])
    if wait then
      replies[i] = {'rate_limited', wait}
    else
      accepted[#accepted + 1], fresh[claim], fingerprints[id] = i, id, fingerprint
      messages[#accepted], opened[2 * #accepted - 1], opened[2 * #accepted] = ARGV[at + 5], sweep_at, id
      replies[i] = {'accepted'}
    end
  end
end
if #accepted > 0 then
  -- First what may be refused: a queue that is no list. All else has been looked at, and nothing of it is half done.
  if KEYS[2] ~= '' then call('LPUSH', KEYS[2], unpack(messages)) end
  for _, i in ipairs(accepted) do
    local at = 5 * i
    call('SET', claims[i], ARGV[at + 1], 'EX', ttl)
    call('HSET', KEYS[3 * i + 1], 'status', 'queued', 'client', ARGV[at + 3], 'fingerprint', ARGV[at + 2],
      'document', ARGV[at + 4], 'updated_at', ARGV[1])
  end
  call('ZADD', KEYS[1], unpack(opened))
end
return cjson.encode(replies)
