-- Gives the lock back, if it is still ours.
--
-- KEYS[1]  the holder's key
-- ARGV[1]  our token, as held
--
-- Answers 1: released, 0: it was not ours any more.
--
-- Atomic because between a compare and a delete the lease may end and the next holder
-- come: we would delete theirs.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
