-- The queue: who waits, in order of arrival, and how a lock goes from one to the next.

-- 2 days, in ms: whoever waits asks again when a lease has ended, after 24 h at the latest.
local QUEUE_LIFE = '172800000'
-- In a Cluster only the shards' channels tell who listens.
local SHARDED = CHANNEL ~= 'lockstock:wake:'
local PUBLISH = SHARDED and 'SPUBLISH' or 'PUBLISH'
local NUMSUB = SHARDED and 'SHARDNUMSUB' or 'NUMSUB'

-- Fences for a new holder: the last of `block` numbers, all higher than any before. The clock's
-- microseconds keep them rising when the clock's key was lost or rolled back (flush, restart
-- without a log, failover to a stale replica). Exact below 2^53, the year 2255.
--
-- Of a block only the first is noted, for as long as the clock goes on: a holder says how far it
-- got when it is done, and if it never does its lease ends, which takes longer than a block has
-- microseconds. When the clock's key is ahead of the clock, nothing but the key keeps count.
local function mint(block)
  local fence = math.max(now, highest + 1)
  highest = fence > now and fence + block - 1 or fence
  return fence + block - 1
end

local function note_used(used)
  if used ~= '' then highest = math.max(highest, used) end
end

-- As the queue has it.
local function as_member(token, lease, wait, block, mode)
  if wait == '' then return '' end
  return table.concat({ PROCESS, lease, wait, block, mode, token }, ':')
end

local function wake(process, message)
  return redis.call(PUBLISH, CHANNEL .. process, message)
end

-- Whether `process` listens. PUBLISH would count whoever listens to everything as well.
local function is_there(process)
  return redis.call('PUBSUB', NUMSUB, CHANNEL .. process)[2] > 0
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
  redis.call('ZADD', queue_key, 'NX', whole(now + joined - waited), member)
  redis.call('PEXPIRE', queue_key, QUEUE_LIFE)
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
      wake(process, table.concat({ 'held', token, whole(fence), lease, whole(now) }, ':'))
      if tonumber(lease) < left then alarm() end
      if not SHARING then return end
    end
    if not next_one then return end
  end
end
