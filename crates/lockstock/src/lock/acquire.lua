-- Takes the lock, or a place in the queue. Asked again with the same token it answers the
-- same, and the place in the queue stays what it was.
--
-- KEYS     as in queue.lua
-- ARGV[1]  token          ARGV[2]  lease in ms
-- ARGV[3]  how long to wait from now on in ms, -1 for as long as it takes
-- ARGV[4]  our member of the queue, or '' to try without waiting
--
-- Answers {'granted', fence, ms left, now, 0}, or {how, 0, ms left, now, queued}: busy; how
-- is 'held', 'kept' or 'foreign' (the holder is not one of ours and tells nobody), ms left is
-- -1 for a holder that never expires, now is this server's clock in µs, queued is 1 if we
-- stand in the queue. A waiter that a kept lock will outlive does not.
--
-- Atomic because a fence minted after the grant could be overtaken, and a waiter who joins
-- after it looked could miss the release in between.
local token, lease, patience, member = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local holder = redis.call('GET', KEYS[1])

-- Takes a place behind everybody, or keeps the one it has.
local function join()
  if member == '' then return end
  local last = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')[2] or 0
  redis.call('ZADD', KEYS[3], 'NX', whole(math.max(now, last + 1)), member)
  redis.call('PEXPIRE', KEYS[3], QUEUE_LIFE)
end

if not holder then
  -- Free, or its lease has ended: those who came before us go first.
  local head = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
  if head and head ~= member then
    join()
    hand_over()
    holder = redis.call('GET', KEYS[1])
  end
  if not holder then
    -- In this order: with its memory full Redis refuses the first write of a script, and
    -- only the first. A grant is better refused than a leaving.
    local fence = grant(token, lease)
    redis.call('ZREM', KEYS[3], member)
    return {'granted', fence, tonumber(lease), now, 0}
  end
end

local left = redis.call('PTTL', KEYS[1])
if holder == HELD .. token then
  return {'granted', tonumber(redis.call('GET', KEYS[2]) or 0), left, now, 0}
end
local how = 'foreign'
if string.sub(holder, 1, #HELD) == HELD then how = 'held' end
if string.sub(holder, 1, #KEPT) == KEPT then how = 'kept' end
local in_vain = how == 'kept' and patience >= 0 and patience < left
if in_vain then
  -- It may stand there from before, when the lock was not kept yet.
  redis.call('ZREM', KEYS[3], member)
  return {how, 0, left, now, 0}
end
join()
return {how, 0, left, now, member == '' and 0 or 1}
