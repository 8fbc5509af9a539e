-- The queue: who waits, in order of arrival, and how a lock goes from one to the next.

-- As the queue has it.
local function as_member(token, lease, wait, block, mode)
  if wait == '' then return '' end
  return table.concat({ PROCESS, lease, wait, block, mode, token }, ':')
end

-- A lease ends sooner than the waiters believe: each asks again. As long as everybody is told,
-- nobody ever believes in an end that is later than the true one.
local function alarm()
  for _, member in ipairs(redis.call('ZRANGE', queue_key, '0', '-1')) do
    local process, token = string.match(member, '^(%x+):.*:(%x+)$')
    if process then wake(process, 'ask:' .. token) end
  end
end

-- How many have come in this call: they come one after another, all the same.
local joined = 0

-- Takes a place: behind everybody, or among them if it has waited elsewhere for `waited` µs
-- already. Keeps the one it has.
local function join(member, waited)
  if member == '' then return end
  joined = joined + 1
  add(queue_key, now + joined - waited, member)
  mark_wanted()
end

-- Gives what is free to the first waiters that are still there. The grant is the lock: whoever
-- hears it has nothing left to ask. `left` is until when, in ms, the others believe that there
-- is nothing for them.
local function hand_over(left)
  while true do
    local head, arrived, next_one =
      unpack(redis.call('ZRANGE', queue_key, '0', '1', 'WITHSCORES'), 1, 3)
    if not head then return end
    local process, lease, wait, block, mode, token =
      string.match(head, '^(%x+):(%d+):(-?%d+):(%d+):(%w+):(%x+)$')
    if process and not admits(mode) then return end
    redis.call('ZREM', queue_key, head)
    local in_time = process and (tonumber(wait) < 0 or arrived + wait * 1000 >= now)
    if in_time and is_there(process) then
      local fence = mint(block)
      take(token, lease, mode, fence, next_one)
      tell_holder(process, token, whole(fence), lease)
      if tonumber(lease) < left then alarm() end
      if not SHARING then return end
    end
    if not next_one then return end
  end
end
