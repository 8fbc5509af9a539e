-- Sets how much is left of the lease: `renew` asks for the whole lease again, `extend` for
-- what it believes is left and some more. A length, not a sum, so that running it twice
-- does no harm. Wakes nobody, unless the lease ends sooner now.
--
-- KEYS     as in queue.lua
-- ARGV[1]  token          ARGV[2]  ms to be left
--
-- Answers 1: done, 0: it was not ours any more.
--
-- Atomic because between a compare and an expire the next holder may come: we would
-- change their lease.
if redis.call('GET', KEYS[1]) ~= HELD .. ARGV[1] then return 0 end
if tonumber(ARGV[2]) < redis.call('PTTL', KEYS[1]) then alarm() end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
