-- Gives the lock back, if it is still ours: to the first waiter, or to nobody.
--
-- KEYS     as in queue.lua
-- ARGV[1]  token
--
-- Answers 1: released, 0: it was not ours any more.
--
-- Atomic because between a compare and a delete the lease may end and the next holder
-- come: we would delete theirs.
if redis.call('GET', KEYS[1]) ~= HELD .. ARGV[1] then return 0 end
hand_over()
return 1
