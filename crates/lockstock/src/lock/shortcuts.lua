-- Locks spend their lives free and without waiters, and those that do not in going from one
-- waiter to the next. That takes a fraction of the commands, and nothing of what is set up
-- below. What is not that simple is left to the steps.
local HELD, WANTED = 'lockstock:held:', 'lockstock:want:'
local taken = 0

-- Gives a lock that somebody waits for to the first waiter, if that one is there and has a
-- lease that ends no sooner than the others believe.
local function pass_on(holder, queue, used)
  local first, arrived, next_one =
    unpack(redis.call('ZRANGE', queue, '0', '1', 'WITHSCORES'), 1, 3)
  local process, lease, wait, block, token =
    string.match(first or '', '^(%x+):(%d+):(-?%d+):(%d+):x:(%x+)$')
  local in_time = process and (wait == '-1' or arrived + wait * 1000 >= now)
  if not in_time or not is_there(process) then return end
  if redis.call('PTTL', holder) > tonumber(lease) then return end
  note_used(used)
  local fence = whole(mint(block))
  -- In this order, see acquire.
  redis.call('ZREM', queue, first)
  local mark = next_one and WANTED or HELD
  redis.call('SET', holder, mark .. token .. ':' .. fence, 'PX', lease)
  tell_holder(process, token, fence, lease)
  taken = taken + 1
  return 1
end

-- Takes a place behind others who wait for the same holder.
local function join_others(holder, queue, arrived, token, lease, wait, block, mode)
  local value = redis.call('GET', holder)
  if not value or string.sub(value, 1, #WANTED) ~= WANTED then return end
  if string.find(value, token, #WANTED, true) then return end
  local member = table.concat({ PROCESS, lease, wait, block, mode, token }, ':')
  add(queue, arrived, member)
  taken = taken + 1
  return { 'held', 0, redis.call('PTTL', holder), 1 }
end

if RELEASES > 0 then
  local holders, free = {}, {}
  for i = 1, RELEASES do holders[i] = KEYS[2 * i] end
  local values = redis.call('MGET', unpack(holders))
  -- What has been passed on is not as it was looked at any more.
  local passed_on = {}
  for i = 1, RELEASES do
    local value, claim, used = values[i], ARGV[3 + 2 * i], ARGV[4 + 2 * i]
    if value == HELD .. claim then
      free[#free + 1] = holders[i]
      note_used(used)
      answers[1 + i], taken = 1, taken + 1
    elseif value == WANTED .. claim and not passed_on[holders[i]] then
      passed_on[holders[i]] = true
      answers[1 + i] = answer_of(pass_on, holders[i], KEYS[2 * i + 1], used)
    end
  end
  if free[1] then redis.call('DEL', unpack(free)) end
end

if ACQUIRES > 0 then
  local queues = {}
  for i = 1, ACQUIRES do queues[i] = KEYS[2 * (RELEASES + i) + 1] end
  local some_wait = redis.call('EXISTS', unpack(queues)) > 0
  -- One for all: it is for each name that fences have to rise.
  local fence = math.max(now, highest + 1)
  local at = 5 + 2 * RELEASES
  for i = 1, ACQUIRES do
    local holder, answer = KEYS[2 * (RELEASES + i)], 1 + RELEASES + i
    local token, lease, wait, waited, block, mode = unpack(ARGV, at, at + 5)
    if some_wait and redis.call('EXISTS', queues[i]) > 0 then
      if wait ~= '' then
        local arrived = now + i - waited
        answers[answer] =
          answer_of(join_others, holder, queues[i], arrived, token, lease, wait, block, mode)
      end
    else
      local last = fence + block - 1
      local value = HELD .. token .. ':' .. whole(last)
      local held = redis.pcall('SET', holder, value, 'NX', 'PX', lease)
      if held and not held.err then
        highest = math.max(highest, fence > now and last or fence)
        answers[answer] = last
        taken = taken + 1
      end
    end
    at = at + 6
  end
end

if taken == STEPS then return finish() end
