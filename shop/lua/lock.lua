-- Takes the locks of SKUs for one holder: all of them or none.
--
-- KEYS locks
-- ARGV 1 holder, 2 time-to-live ms
-- REPLY 'taken' | 'busy'
for _, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  if holder and holder ~= ARGV[1] then return 'busy' end
end
for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1], 'PX', ARGV[2]) end
return 'taken'
