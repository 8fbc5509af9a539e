-- The steps that are taken all the time.

-- Takes the lock, or a place in the queue. Asked again with the same token it finds the lock
-- its own (what is shared with a new fence), and the place in the queue what it was.
--
-- wait: for how long in all in ms, -1 for as long as it takes, '' not at all; waited: for how
-- long already, in µs; block: how many fences.
--
-- Answers the fence, the last of the block: it was free. Or {'granted', fence, ms left, 0}: it
-- was ours already. Or {how, 0, ms left, queued}: busy; how and ms left as `standing` tells
-- them, queued is 1 if we stand in the queue. A waiter that a kept lock will outlive does not.
--
-- Atomic because a fence minted after the grant could be overtaken, and a waiter who joins
-- after it looked could miss the release in between.
local function acquire(token, lease, wait, waited, block, mode)
  local member = as_member(token, lease, wait, block, mode)
  local ours, fence = held_by(token)
  if not ours and admits(mode) then
    -- Free, or its lease has ended: those who came before us go first.
    local head = redis.call('ZRANGE', queue_key, '0', '0')[1]
    if head and head ~= member then
      join(member, waited)
      hand_over(0)
      ours, fence = held_by(token)
      head = redis.call('ZRANGE', queue_key, '0', '0')[1]
    end
    if not ours and (not head or head == member) then
      fence = mint(block)
      -- In this order: with its memory full Redis refuses the first write of a script, and
      -- only the first. The grant of a lock is better refused than a leaving.
      if take(token, lease, mode, fence, head) then
        redis.call('ZREM', queue_key, member)
        -- There may be something left for those behind.
        hand_over(0)
        return fence
      end
    end
  end
  if ours then return { 'granted', fence or mint(block), left_of(token), 0 } end
  local how, left = standing()
  if how == 'kept' and wait ~= '-1' and (tonumber(wait) or 0) - waited / 1000 < left then
    -- It may stand there from before, when the lock was not kept yet.
    redis.call('ZREM', queue_key, member)
    return { how, 0, left, 0 }
  end
  join(member, waited)
  return { how, 0, left, member == '' and 0 or 1 }
end

-- Gives the lock of `token` back: to the first waiter, or to nobody. With `next_member`, who has
-- `waited` so long already, in the queue before that. Answers as release does.
local function hand_back(token, used, next_member, waited)
  if not held_by(token) then return 0 end
  note_used(used)
  local _, left = standing()
  vacate(token)
  if next_member then join(next_member, waited) end
  hand_over(left)
  return 1
end

-- Gives the lock back: to the first waiter, or to nobody.
--
-- claim: lockstock:held:TOKEN:FENCE, which is what the holder's key has as long as nobody waits;
-- used: the last fence of a block that was used, '' if it has only one.
--
-- Answers 1: released, 0: it was not ours any more.
--
-- Atomic because between a compare and a delete the lease may end and the next holder come:
-- we would delete theirs.
local function release(claim, used) return hand_back(token_of(claim), used) end

-- Gives the lock back with somebody waiting in the same process, who takes the place in the
-- queue that it has by the time it has `waited`.
--
-- Answers as release does. Atomic because whoever came later must not be given it in between.
local function pass(claim, used, token, lease, wait, waited, block, mode)
  local member = as_member(token, lease, wait, block, mode)
  return hand_back(token_of(claim), used, member, waited)
end
named.pass = { pass, 8 }
