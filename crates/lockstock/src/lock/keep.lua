-- Leaves the lock taken for the rest of its lease, for everybody, and marks it so: whoever
-- cannot wait that long is told at once.
--
-- KEYS[1]  the holder's key
-- ARGV[1]  our token, as held        ARGV[2]  our token, as kept
--
-- Answers 1: kept (also when asked again), 0: it was not ours any more.
--
-- Atomic because between a compare and a set the next holder may come.
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[2] then return 1 end
if holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1
