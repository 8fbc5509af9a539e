-- A lock that others wait for goes from one to the next, and those who come join them. That
-- takes less than the steps do, as long as whoever is next is simply there. What is not that
-- simple is left to the steps.
local WANTED = 'lockstock:want:'

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

-- What has been passed on is not as it was looked at any more.
local passed_on = {}
for i = 1, RELEASES do
  local holder = KEYS[2 * i]
  local wanted = WANTED .. string.sub(ARGV[3 + 2 * i], #HELD + 1)
  if values[i] == wanted and not passed_on[holder] then
    passed_on[holder] = true
    answers[1 + i] = answer_of(pass_on, holder, KEYS[2 * i + 1], ARGV[4 + 2 * i])
  end
end

for i = 1, ACQUIRES do
  local at, answer = 6 * i - 1 + 2 * RELEASES, 1 + RELEASES + i
  local token, lease, wait, waited, block, mode = unpack(ARGV, at, at + 5)
  if answers[answer] == nil and wait ~= '' then
    local holder, queue = KEYS[2 * (RELEASES + i)], KEYS[2 * (RELEASES + i) + 1]
    local arrived = now + i - waited
    answers[answer] =
      answer_of(join_others, holder, queue, arrived, token, lease, wait, block, mode)
  end
end

if taken == STEPS then return finish() end
