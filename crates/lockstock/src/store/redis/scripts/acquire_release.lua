-- The frequent operations.
--
-- Provides: confirmed, acquire, release, release_to_next, and the operation pass
-- Uses:     prelude, notify, exclusive or shared, queue

-- Returns the reply to a waiter that holds the lock, with its whole lease: the grant may have been
-- pushed to it with a shorter one.
local function confirmed(token, lease, fence)
  if remaining_of(token) < tonumber(lease) then set_lease(token, lease) end
  return { 'granted', fence, remaining_of(token), 0 }
end

-- Acquires the lock, or joins the queue. Repeated with the same token it returns 'granted' (for
-- a shared lock with a new fence), and the position in the queue is unchanged.
--
-- wait: timeout in ms from the beginning of the attempt, -1 for none, '' for an attempt that
-- does not wait; waited: µs since the beginning; fences: how many fences to reserve.
--
-- Returns the last fence of the grant if the lock was free; {'granted', fence, remaining ms, 0}
-- if `token` held it already, and then at least the lease remains; {state, 0, remaining ms, queued} if it is busy, with the results
-- of busy_state, and queued 1 if the waiter is in the queue. A waiter whose timeout is before
-- the end of a kept lock is not queued.
--
-- Atomic because a fence minted after the grant could be overtaken, and a waiter that joins
-- after reading the holder could miss the release in between.
local function acquire(token, lease, wait, waited, fences, mode)
  local member = to_member(token, lease, wait, fences, mode)
  local is_holder, fence = held_by(token)
  if not is_holder and admits(mode) then
    -- Free, or the lease has ended: earlier waiters go first.
    local head = redis.call('ZRANGE', queue_key, '0', '0')[1]
    if head and head ~= member then
      join(member, waited)
      hand_over(0)
      is_holder, fence = held_by(token)
      head = redis.call('ZRANGE', queue_key, '0', '0')[1]
    end
    if not is_holder and (not head or head == member) then
      fence = mint(fences)
      -- In this order: with its memory full Redis rejects the first write of a script, and
      -- only the first. It has to be the grant, not the removal from the queue.
      if set_holder(token, lease, mode, fence, head) then
        redis.call('ZREM', queue_key, member)
        -- Further permits may be free for the waiters behind.
        hand_over(0)
        return fence
      end
    end
  end
  if is_holder then return confirmed(token, lease, fence or mint(fences)) end
  local state, remaining = busy_state()
  if state == 'kept' and wait ~= '-1' and (tonumber(wait) or 0) - waited / 1000 < remaining then
    -- It may have joined before the lock was kept.
    redis.call('ZREM', queue_key, member)
    return { state, 0, remaining, 0 }
  end
  join(member, waited)
  return { state, 0, remaining, member == '' and 0 or 1 }
end

-- Releases the lock of `token` to the first waiter, if there is one. `next_member`, which has
-- waited for `waited` µs, joins the queue before that. Returns as release does.
local function release_to_next(token, used, next_member, waited)
  if not held_by(token) then return 0 end
  record_used_fences(used)
  local _, remaining = busy_state()
  clear_holder(token)
  if next_member then join(next_member, waited) end
  hand_over(remaining)
  return 1
end

-- Releases the lock to the first waiter, if there is one.
--
-- grant: lockstock:held:TOKEN:FENCE, the value of the holder key while there are no waiters;
-- used: the last fence of the block that was used, '' if the block is one fence.
--
-- Returns 1: released, 0: `token` did not hold the lock any more.
--
-- Atomic because between a compare and a delete the lease may end and another client acquire
-- the lock: the delete would remove its grant.
local function release(grant, used) return release_to_next(token_of(grant), used) end

-- Releases the lock while another waiter of the same client is in its local queue. This waiter
-- joins the queue at the time of its arrival before the lock is handed over.
--
-- Returns as release does. Atomic because a waiter that arrived later must not get the lock in
-- between.
local function pass(grant, used, token, lease, wait, waited, fences, mode)
  local member = to_member(token, lease, wait, fences, mode)
  return release_to_next(token_of(grant), used, member, waited)
end
named_operations.pass = { pass, 8 }
