-- Releases locks, each only if the holder still has it.
--
-- KEYS locks
-- ARGV 1 holder
-- REPLY 'released'
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
return 'released'
