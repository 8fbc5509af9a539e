-- Hands locks with waiters to the next waiter, and adds waiters to queues. If the first waiter
-- is reachable, this takes fewer commands than the general operations. All other cases are left
-- to dispatch.lua.
--
-- Provides: WANTED
-- Uses:     prelude, fast_path, arguments, notify
local WANTED = 'lockstock:want:'

-- Hands the lock to the first waiter, provided that its client is subscribed and its lease ends
-- no earlier than the other waiters expect.
local function hand_over_to_first(holder, queue, used)
  local first, arrived, next_one =
    unpack(redis.call('ZRANGE', queue, '0', '1', 'WITHSCORES'), 1, 3)
  local client, lease, wait, fences, token =
    string.match(first or '', '^(%x+):(%d+):(-?%d+):(%d+):x:(%x+)$')
  local in_time = client and (wait == '-1' or arrived + wait * 1000 >= now)
  if not in_time or not is_subscribed(client) then return end
  if pushed_lease(client, arrived, lease) < tonumber(lease) then return end
  if redis.call('PTTL', holder) > tonumber(lease) then return end
  record_used_fences(used)
  local fence = to_integer_string(mint(fences))
  -- In this order, see acquire.
  redis.call('ZREM', queue, first)
  local mark = next_one and WANTED or HELD
  redis.call('SET', holder, mark .. token .. ':' .. fence, 'PX', lease)
  notify_held(client, token, fence, lease)
  done = done + 1
  return 1
end

-- Adds a waiter behind other waiters for the same holder.
local function join_waiters(holder, queue, arrived, token, lease, wait, fences, mode)
  local value = redis.call('GET', holder)
  if not value or string.sub(value, 1, #WANTED) ~= WANTED then return end
  if string.find(value, token, #WANTED, true) then return end
  local member = table.concat({ CLIENT, lease, wait, fences, mode, token }, ':')
  add_to_queue(queue, arrived, member)
  done = done + 1
  return { 'held', 0, redis.call('PTTL', holder), 1 }
end

-- After a hand-over `holder_values` is stale for that key.
local handed_over = {}
for i = 1, RELEASES do
  local holder, at = KEYS[2 * i], release_args(i)
  local wanted = WANTED .. string.sub(ARGV[at], #HELD + 1)
  if holder_values[i] == wanted and not handed_over[holder] then
    handed_over[holder] = true
    replies[1 + i] = reply_of(hand_over_to_first, holder, KEYS[2 * i + 1], ARGV[at + 1])
  end
end

for i = 1, ACQUIRES do
  local at, reply = acquire_args(i), 1 + RELEASES + i
  local token, lease, wait, waited, fences, mode = unpack(ARGV, at, at + 5)
  if replies[reply] == nil and wait ~= '' then
    local holder, queue = KEYS[2 * (RELEASES + i)], KEYS[2 * (RELEASES + i) + 1]
    local arrived = now + i - waited
    replies[reply] =
      reply_of(join_waiters, holder, queue, arrived, token, lease, wait, fences, mode)
  end
end

if done == OPERATIONS then return finish() end
