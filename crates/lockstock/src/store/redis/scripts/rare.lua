-- The rare operations.
--
-- Provides: the operations leave, renew, rename and force
-- Uses:     prelude, notify, exclusive or shared, queue, acquire_release

-- Leaves the queue, because the attempt has timed out or was cancelled. If `give_back` is '1', a
-- lock that was granted in the meantime is released.
--
-- Returns as acquire does: a lock that was granted in the last moment belongs to the waiter,
-- unless it is given back.
--
-- Atomic because the grant may come between reading the holder and leaving.
local function leave(token, lease, wait, fences, mode, give_back)
  local member = to_member(token, lease, wait, fences, mode)
  local was_first = redis.call('ZRANGE', queue_key, '0', '0')[1] == member
  redis.call('ZREM', queue_key, member)
  if give_back == '1' then release_to_next(token, '') end
  local is_holder, fence = held_by(token, mode)
  if is_holder then return confirmed(token, lease, fence or mint(fences)) end
  if was_first then
    -- It may have blocked waiters that the holders admit.
    local _, remaining = busy_state()
    hand_over(remaining)
  end
  local state, remaining = busy_state()
  return { state, 0, remaining, 0 }
end
named_operations.leave = { leave, 6 }

-- Sets the remaining lease in ms. A client's renew passes the whole lease, its extend the
-- remaining lease plus an extension. A length, not an increment, so that it is idempotent.
-- Wakes no waiters, unless the lease now ends earlier.
--
-- Returns 1: done, 0: `token` did not hold the lock any more.
--
-- Atomic because between a compare and an expire another client may acquire the lock: its lease
-- would change.
local function renew(token, remaining)
  if not held_by(token) then return 0 end
  local before = remaining_of(token)
  set_lease(token, remaining)
  if tonumber(remaining) < before then wake_all() end
  return 1
end
named_operations.renew = { renew, 2 }

-- Gives the holder another token, which its application has chosen. Exclusive locks only. The
-- waiters in its local queue are not notified of a forced release any more: a token begins with the
-- client.
--
-- Returns 1: done, also if repeated, 0: `token` did not hold the lock any more.
--
-- Atomic because between a compare and a set another client may acquire the lock.
local function rename(token, new)
  if held_by(new) then return 1 end
  if not held_by(token) then return 0 end
  holder_token = new
  set_mark(mark)
  return 1
end
if not SHARING then named_operations.rename = { rename, 2 } end

-- Releases the lock of a holder that does not release it, held or kept, to the first waiter, if
-- there is one.
--
-- id: the holder's token, or 'foreign:' and the digest of its value, see inspect.lua.
--
-- Returns 1: released, 0: that holder did not hold the lock any more; a later holder keeps it.
--
-- Atomic because between a compare and a delete another client may acquire the lock.
local function force(id)
  local _, remaining = busy_state()
  if not evict(id) then return 0 end
  -- The waiters in its local queue wait for its release, or for the end of its lease.
  if string.find(id, '^%x+$') then wake(string.sub(id, 1, 16), 'lost:' .. id) end
  hand_over(remaining)
  return 1
end
named_operations.force = { force, 1 }
