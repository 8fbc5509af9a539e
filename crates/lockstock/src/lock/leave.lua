-- Leaves the queue, because the wait is over or nobody waits any more.
--
-- KEYS     as in queue.lua
-- ARGV[1]  token          ARGV[2]  the waiter's member of the queue
-- ARGV[3]  '1' to give back a lock that was granted in the meantime
--
-- Answers as acquire.lua does: a lock that was granted in the last moment is the waiter's,
-- unless it does not want it any more.
--
-- Atomic because between a look at the holder and the leaving the grant may come.
local was_first = redis.call('ZRANGE', KEYS[3], 0, 0)[1] == ARGV[2]
redis.call('ZREM', KEYS[3], ARGV[2])
if was_first then alarm() end
local holder = redis.call('GET', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if holder == HELD .. ARGV[1] then
  if ARGV[3] == '1' then
    hand_over()
    return {'held', 0, 0, now, 0}
  end
  return {'granted', tonumber(redis.call('GET', KEYS[2]) or 0), left, now, 0}
end
if holder and string.sub(holder, 1, #KEPT) == KEPT then return {'kept', 0, left, now, 0} end
return {'held', 0, math.max(left, 0), now, 0}
