-- Accepts orders: claims the idempotency key, records the order and puts its message on the queue, in one step
-- for each order, or changes nothing for it. A key stands for one of an order's ids; any other claim is overwritten.
--
-- KEYS 1 orders:open, 2 broker queue ('' = the caller publishes); then per order: idempotency key, rate bucket, a record per id
-- ARGV 1 now ms, 2 time-to-live s, 3 queue limit, 4 orders per second and client (0 = no limit), 5 sweep at ms, 6 ids per order,
--      7 empty where PostgreSQL was not asked for them; then per order (128 at most): fingerprint, client, document, message,
--      fingerprint of PostgreSQL's row ('' = none), and its ids, first that of the row, or else that of the document
-- REPLY JSON, per order: {'accepted'} | {'replayed', id} | {'reused', id} | {'lost', id} | {'rate_limited', wait ms} | {'queue_full'}
--                | {'paused'} | {'unknown'} | {'broken', id} (somebody has put something else under that order's key)
--   'lost': the key stands for another of the ids, and that order is gone; the caller asks again with that id first.
--   'unknown': the order may have ended, and PostgreSQL was not asked.
local call = redis.call
local ttl, queue_limit, rate, sweep_at, ids = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local waiting, paused = call('ZCARD', KEYS[1]), call('EXISTS', 'pause:intake') == 1
-- Of the orders accepted here: which, fingerprint by id, messages, and entries of the journal.
local accepted, fingerprints, messages, opened, claims, replies = {}, {}, {}, {}, {}, {}

-- Token bucket as one number: the ms until it is full again (GCRA, ITU-T I.371). One second of burst. Its key lives for as long, by
-- Redis's clock: web processes whose clocks differ share one bucket. Its value is what the key's life was rounded up by.
local function over_rate(bucket)
  if rate == 0 then return false end
  local left = call('PTTL', bucket)
  local until_full = left > 0 and left - tonumber(call('MGET', bucket)[1] or '0') or 0
  if until_full > 1000 then until_full = 0 end  -- no bucket is: Redis's clock was set back
  local next_until_full = math.max(until_full, 0) + 1000 / rate
  if next_until_full - 1000 > 0.001 then return math.ceil(next_until_full - 1000) end
  local life = math.ceil(next_until_full)
  call('SET', bucket, string.format('%.3f', life - next_until_full), 'PX', life)
end

-- The id that has a record (of several the claimed one), the fingerprint there, and whether the claim is one of the ids.
local function recorded(claimed, record, id)
  local known, fingerprint, counts
  for n = 0, ids - 1 do
    local found = fingerprints[ARGV[id + n]] or redis.pcall('HGET', KEYS[record + n], 'fingerprint')
    if found and (not known or ARGV[id + n] == claimed) then known, fingerprint = ARGV[id + n], found end
    counts = counts or ARGV[id + n] == claimed
  end
  return known, fingerprint, counts
end

-- Why an order is not accepted; nothing where it is.
local function refusal(claim, claimed, key, at)
  local known, found, counts = ARGV[at + 6], ARGV[at + 5], false
  if found == '' then known, found, counts = recorded(claimed, key + 2, at + 6) end
  if found and found.err then return {'broken', known} end
  if found and claimed ~= known and not fingerprints[known] then call('SET', claim, known, 'EX', ttl) end
  if found == ARGV[at + 1] then return {'replayed', known} end
  if found then return {'reused', known} end
  -- Where PostgreSQL has a row of this id, an order accepted without a look at it changes nothing. With several ids it might.
  if ARGV[7] == '' and (ids > 1 or call('EXISTS', claim) == 1) then return {'unknown'} end
  if counts and claimed ~= ARGV[at + 6] then return {'lost', claimed} end
  if paused then return {'paused'} end
  if waiting + #accepted >= queue_limit then return {'queue_full'} end
  local wait = over_rate(KEYS[key + 1])
  if wait then return {'rate_limited', wait} end
end

for i = 1, (#ARGV - 7) / (5 + ids) do claims[i] = KEYS[3 + (i - 1) * (2 + ids)] end
for i, claimed in ipairs(call('MGET', unpack(claims))) do  -- what is no text is as good as lost
  local key, at = 3 + (i - 1) * (2 + ids), 7 + (i - 1) * (5 + ids)
  replies[i] = refusal(claims[i], claimed, key, at)
  if not replies[i] then
    accepted[#accepted + 1], fingerprints[ARGV[at + 6]] = i, ARGV[at + 1]
    messages[#accepted], opened[2 * #accepted - 1], opened[2 * #accepted] = ARGV[at + 4], sweep_at, ARGV[at + 6]
    replies[i] = {'accepted'}
  end
end
if #accepted > 0 then
  -- First what may be refused: a queue that is no list. All else has been looked at, and nothing of it is half done.
  if KEYS[2] ~= '' then call('LPUSH', KEYS[2], unpack(messages)) end
  for _, i in ipairs(accepted) do
    local key, at = 3 + (i - 1) * (2 + ids), 7 + (i - 1) * (5 + ids)
    call('SET', claims[i], ARGV[at + 6], 'EX', ttl)
    call('HSET', KEYS[key + 2], 'status', 'queued', 'client', ARGV[at + 2], 'fingerprint', ARGV[at + 1],
      'document', ARGV[at + 3], 'updated_at', ARGV[1])
  end
  call('ZADD', KEYS[1], unpack(opened))
end
return cjson.encode(replies)
