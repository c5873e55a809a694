-- Begins to load SKUs from PostgreSQL: marks each with a nonce and tells which open reservations hold units of it.
-- While `estoque:` is missing nothing new can be reserved, so the reservations told can only become fewer.
--
-- KEYS 1 reservations
-- ARGV 1 nonce, then SKUs
-- REPLY {skus to load, {order id, token, sku, units, ...}}; a SKU that is loaded is left out
local call = redis.call
local wanted, missing, holding = {}, {}, {}
for at = 2, #ARGV do
  local sku = ARGV[at]
  local free = call('MGET', 'estoque:' .. sku)[1]
  if not free or (free ~= '0' and not string.match(free, '^-?[1-9]%d*$')) or #free > 15 then
    -- A level without its counter means nothing. Either may be of any type.
    call('DEL', 'estoque:' .. sku, 'level:' .. sku)
    call('HSET', 'level:' .. sku, 'loading', ARGV[1])
    wanted[sku] = true
    missing[#missing + 1] = sku
  end
end
if #missing > 0 then
  local all = call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local reservation = cjson.decode(all[i + 1])
    for at = 3, #reservation, 2 do
      if wanted[reservation[at]] then
        for _, part in ipairs({all[i], reservation[1], reservation[at], reservation[at + 1]}) do holding[#holding + 1] = part end
      end
    end
  end
end
return {missing, holding}
