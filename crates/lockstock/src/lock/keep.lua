-- Leaves the lock taken for the rest of its lease, for everybody, and tells each waiter that
-- cannot wait that long; the others ask again, so that those behind them in their process
-- hear of it too.
--
-- KEYS     as in queue.lua
-- ARGV[1]  token
--
-- Answers 1: kept (also when asked again), 0: it was not ours any more.
--
-- Atomic because between a compare and a set the next holder may come.
local holder = redis.call('GET', KEYS[1])
if holder == KEPT .. ARGV[1] then return 1 end
if holder ~= HELD .. ARGV[1] then return 0 end
redis.call('SET', KEYS[1], KEPT .. ARGV[1], 'KEEPTTL')
local left = redis.call('PTTL', KEYS[1])
local waiters = redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')
for i = 1, #waiters, 2 do
  local process, wait, token = string.match(waiters[i], '^(%x+):%d+:(-?%d+):(%x+)$')
  local in_vain = tonumber(wait) >= 0 and waiters[i + 1] + wait * 1000 < now + left * 1000
  if in_vain then
    redis.call('ZREM', KEYS[3], waiters[i])
    wake(process, 'kept:' .. token .. ':' .. left)
  else
    wake(process, 'ask:' .. token)
  end
end
return 1
