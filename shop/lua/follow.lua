-- Notes how far the PostgreSQL is that Redis follows, unless somebody has noted something else meanwhile.
--
-- KEYS 1 followed
-- ARGV 1 what stood there before ('' = nothing), 2 which PostgreSQL, and how far it is
-- REPLY 'noted' | 'kept'
-- Without the comparison a process that froze would have Redis follow a PostgreSQL again whose place was taken.
if (redis.call('MGET', KEYS[1])[1] or '') ~= ARGV[1] then return 'kept' end
redis.call('SET', KEYS[1], ARGV[2])
return 'noted'
