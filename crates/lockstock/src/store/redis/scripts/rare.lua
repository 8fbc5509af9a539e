-- The steps that are taken now and then.

-- Leaves the queue, because the wait is over or nobody waits any more. What was granted in the
-- meantime is given back if `give_back` is '1'.
--
-- Answers as acquire does: a lock that was granted in the last moment is the waiter's, unless
-- it does not want it any more.
--
-- Atomic because between a look at the holder and the leaving the grant may come.
local function leave(token, lease, wait, block, mode, give_back)
  local member = as_member(token, lease, wait, block, mode)
  local was_first = redis.call('ZRANGE', queue_key, '0', '0')[1] == member
  redis.call('ZREM', queue_key, member)
  if give_back == '1' then hand_back(token, '') end
  local ours, fence = held_by(token)
  if ours then return { 'granted', fence or mint(block), left_of(token), 0 } end
  if was_first then
    -- There may be something for those whom it stood in front of.
    local _, left = standing()
    hand_over(left)
  end
  local how, left = standing()
  return { how, 0, math.max(left, 0), 0 }
end
named.leave = { leave, 6 }

-- Sets how much is left of the lease, in ms: `renew` asks for the whole lease again, `extend`
-- for what it believes is left and some more. A length, not a sum, so that taking it twice
-- does no harm. Wakes nobody, unless the lease ends sooner now.
--
-- Answers 1: done, 0: it was not ours any more.
--
-- Atomic because between a compare and an expire the next holder may come: we would change
-- their lease.
local function renew(token, left)
  if not held_by(token) then return 0 end
  local before = left_of(token)
  lasts(token, left)
  if tonumber(left) < before then alarm() end
  return 1
end
named.renew = { renew, 2 }

-- Takes the lock away from one who does not give it back, whether it is held or kept: it goes
-- to the first waiter, or to nobody, as in a release.
--
-- id: the holder's token, or 'foreign:' and the digest of its value, see inspect.lua.
--
-- Answers 1: taken away, 0: that one had it no longer. Whoever came after it keeps it.
--
-- Atomic because between a compare and a delete the next holder may come.
local function force(id)
  local _, left = standing()
  if not evict(id) then return 0 end
  -- Those behind it in its process wait for its release, or for the end of its lease.
  if string.find(id, '^%x+$') then wake(string.sub(id, 1, 16), 'lost:' .. id) end
  hand_over(left)
  return 1
end
named.force = { force, 1 }
