-- Takes the lock if it is free and mints its fence.
--
-- KEYS[1]  the holder's key          KEYS[2]  the fence counter
-- ARGV[1]  our token, as held        ARGV[2]  lease in ms
-- ARGV[3]  life of the fence counter in ms
-- ARGV[4]  our mark of a held lock   ARGV[5]  our mark of a kept lock
--
-- Answers {1, fence, ms left}: granted (also when asked again with the same token), or
-- {0, how, ms left}: busy; how is 'held', 'kept' or 'foreign' (the holder is not one of
-- ours and pushes nothing), ms left is -1 for a holder that never expires.
--
-- Atomic because a fence minted after the grant could be overtaken: the later holder
-- would carry the lower number.
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  return {1, tonumber(redis.call('GET', KEYS[2]) or 0), redis.call('PTTL', KEYS[1])}
end
if holder then
  local how = 'foreign'
  if string.sub(holder, 1, #ARGV[4]) == ARGV[4] then how = 'held' end
  if string.sub(holder, 1, #ARGV[5]) == ARGV[5] then how = 'kept' end
  return {0, how, redis.call('PTTL', KEYS[1])}
end
-- The clock's microseconds keep fences rising when this counter was lost or rolled back
-- (flush, restart without a log, failover to a stale replica). Below 2^53 until 2255.
local now = redis.call('TIME')
local fence = now[1] * 1000000 + now[2]
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
if fence <= last then fence = last + 1 end
redis.call('SET', KEYS[2], string.format('%.0f', fence), 'PX', ARGV[3])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, fence, tonumber(ARGV[2])}
