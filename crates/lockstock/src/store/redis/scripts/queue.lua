-- The queue of waiters in order of arrival, and the hand-over from one holder to the next.
--
-- Provides: to_member, wake_all, join, hand_over
-- Uses:     prelude, notify, exclusive or shared

-- Returns the queue member of a waiter, '' for an attempt that does not wait.
local function to_member(token, lease, wait, fences, mode)
  if wait == '' then return '' end
  return table.concat({ CLIENT, lease, wait, fences, mode, token }, ':')
end

-- A lease ends earlier than the waiters expect: each has to acquire again. Since all of them are
-- notified, no waiter ever expects an end that is later than the real end.
local function wake_all()
  for _, member in ipairs(redis.call('ZRANGE', queue_key, '0', '-1')) do
    local client, token = string.match(member, '^(%x+):.*:(%x+)$')
    if client then wake(client, 'ask:' .. token) end
  end
end

-- Number of waiters that this call has added. Each gets a later arrival than the one before.
local joined = 0

-- Adds a waiter to the queue: at its end, or at the position of its arrival if it has already
-- waited for `waited` µs. A waiter that is in the queue keeps its position.
local function join(member, waited)
  if member == '' then return end
  joined = joined + 1
  add_to_queue(queue_key, now + joined - waited, member)
  mark_wanted()
end

-- Notifies the first waiters that the lock may be free in `lease` ms. Several, because some of
-- them may be frozen too. One that is not asks then, and hands the lock over to the next.
local function announce_end(lease)
  for _, member in ipairs(redis.call('ZRANGE', queue_key, '0', '7')) do
    local client, token = string.match(member, '^(%x+):.*:(%x+)$')
    if client then wake(client, table.concat({ 'soon', token, lease }, ':')) end
  end
end

-- Grants what is free to the first waiters whose clients are subscribed. The notification is the
-- grant: its receiver sends nothing more, unless the lease is shorter than it wants. `remaining`:
-- for how many ms the other waiters expect the lock to stay taken.
local function hand_over(remaining)
  while true do
    local head, arrived, next_one =
      unpack(redis.call('ZRANGE', queue_key, '0', '1', 'WITHSCORES'), 1, 3)
    if not head then return end
    local client, lease, wait, fences, mode, token =
      string.match(head, '^(%x+):(%d+):(-?%d+):(%d+):(%w+):(%x+)$')
    if client and not admits(mode) then return end
    redis.call('ZREM', queue_key, head)
    local in_time = client and (tonumber(wait) < 0 or arrived + wait * 1000 >= now)
    if in_time and is_subscribed(client) then
      local fence, granted = mint(fences), pushed_lease(client, arrived, lease)
      set_holder(token, granted, mode, fence, next_one)
      notify_held(client, token, to_integer_string(fence), granted)
      if tonumber(lease) < remaining then
        wake_all()
      elseif granted < tonumber(lease) then
        announce_end(granted)
      end
      if not SHARING then return end
    end
    if not next_one then return end
  end
end
