-- Notes how far the PostgreSQL is that Redis follows, where it is a continuation of what was noted before.
--
-- KEYS 1 followed
-- ARGV 1 which PostgreSQL, 2 how far it is, 3 anything (= follow this one from now on, whatever was followed before) or ''
-- REPLY 'continues' | 'went_back'
local call = redis.call
local lineage, ticks = string.match(call('MGET', KEYS[1])[1] or '', '^(%S+) (%d+)$')
if lineage and ARGV[3] == '' and (lineage ~= ARGV[1] or tonumber(ticks) >= tonumber(ARGV[2])) then return 'went_back' end
call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2])
return 'continues'
