-- Forgets the counters of SKUs, so that they are loaded from PostgreSQL before they are used again.
--
-- ARGV SKUs
-- REPLY 'unloaded'
for _, sku in ipairs(ARGV) do redis.call('DEL', 'estoque:' .. sku, 'level:' .. sku) end
return 'unloaded'
