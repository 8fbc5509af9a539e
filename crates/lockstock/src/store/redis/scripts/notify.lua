-- How a queue is added to, how processes are told, whose a claim is, and how a step answers.

-- In a Cluster only the shards' channels tell who listens.
local SHARDED = CHANNEL ~= 'lockstock:wake:'
local PUBLISH = SHARDED and 'SPUBLISH' or 'PUBLISH'
local NUMSUB = SHARDED and 'SHARDNUMSUB' or 'NUMSUB'

local function wake(process, message)
  return redis.call(PUBLISH, CHANNEL .. process, message)
end

local function tell_holder(process, token, fence, lease)
  wake(process, table.concat({ 'held', token, fence, lease, whole(now) }, ':'))
end

-- Whether `process` listens. PUBLISH would count whoever listens to everything as well.
local function is_there(process)
  return redis.call('PUBSUB', NUMSUB, CHANNEL .. process)[2] > 0
end

-- Adds somebody to a queue, if not there yet. The queue is kept for 2 days: whoever waits asks
-- again when a lease has ended, after 24 h at the latest.
local function add(queue, arrived, member)
  redis.call('ZADD', queue, 'NX', whole(arrived), member)
  redis.call('PEXPIRE', queue, '172800000')
end

-- Of lockstock:held:TOKEN:FENCE.
local function token_of(claim) return string.match(claim, '^lockstock:held:(%x+)') end

-- What a step answers. One that fails is no reason for the others to fail.
local function answer_of(step, ...)
  local taken, answer = pcall(step, ...)
  if taken then return answer end
  local why = type(answer) == 'table' and answer.err or tostring(answer)
  -- What a replica tells of a lock may be long past.
  if string.find(why, '^READONLY') then error(answer) end
  return { 'failed', why }
end
