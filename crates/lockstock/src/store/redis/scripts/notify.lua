-- Adds waiters to queues, notifies clients, and runs operations so that one failure does not
-- fail the call.
--
-- Provides: wake, notify_held, is_subscribed, pushed_lease, add_to_queue, token_of, reply_of
-- Uses:     prelude

-- In a Cluster only sharded channels report the number of subscribers.
local SHARDED = CHANNELS ~= 'lockstock:wake:'
local PUBLISH = SHARDED and 'SPUBLISH' or 'PUBLISH'
local NUMSUB = SHARDED and 'SHARDNUMSUB' or 'NUMSUB'

local function wake(client, message) return redis.call(PUBLISH, CHANNELS .. client, message) end

local function notify_held(client, token, fence, lease)
  wake(client, table.concat({ 'held', token, fence, lease, to_integer_string(now) }, ':'))
end

-- Not the reply of PUBLISH: it also counts subscribers to patterns.
local function is_subscribed(client)
  return redis.call('PUBSUB', NUMSUB, CHANNELS .. client)[2] > 0
end

-- Returns the lease in ms of a grant that is pushed to a waiter. The process of a waiter may be
-- frozen: it stays subscribed, and would keep each lock that it is granted for a whole lease.
-- After a wait of 250 ms or more the grant is at most 1 s long, and the waiter confirms it by
-- acquiring again. Waits for a hot lock are shorter and cost no confirmation.
local function pushed_lease(client, arrived, lease)
  lease = tonumber(lease)
  if client == CLIENT or now - arrived < 250000 then return lease end
  return math.min(lease, 1000)
end

-- Adds a member to a queue, unless it is in there. The queue expires after 2 days: waiters
-- acquire again after the end of a lease, so after 24 h at the latest.
local function add_to_queue(queue, arrived, member)
  redis.call('ZADD', queue, 'NX', to_integer_string(arrived), member)
  redis.call('PEXPIRE', queue, '172800000')
end

-- The token of a grant, lockstock:held:TOKEN:FENCE.
local function token_of(grant) return string.match(grant, '^lockstock:held:(%x+)') end

-- Runs an operation and returns its reply, {'failed', reason} if it fails.
local function reply_of(operation, ...)
  local succeeded, reply = pcall(operation, ...)
  if succeeded then return reply end
  local reason = type(reply) == 'table' and reply.err or tostring(reply)
  -- The state of a replica may be stale, so its other replies are worthless too.
  if string.find(reason, '^READONLY') then error(reply) end
  return { 'failed', reason }
end
