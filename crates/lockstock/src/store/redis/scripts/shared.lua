-- Semaphores and read-write locks: several holders at a time. The holder key is a sorted set of
-- PREFIX:TOKEN, the score is the end of the lease in ms by the server's clock. Modes:
--   x     exclusive, PREFIX x: a writer
--   sN    with at most N - 1 other members, or any number if N is 0, PREFIX s: permits, readers
--   sNmK  K of N permits: a member for each of them, with PREFIX m, n2 … nK
--
-- Provides: as exclusive, without mark, holder_token, holder_fence, read_holder and set_mark
-- Uses:     prelude, notify

local SHARING = true

-- A lease ends with the first whole ms that is not before its end.
local now_ms = math.floor(now / 1000)
local now_ms_rounded_up = math.ceil(now / 1000)
local function remaining_until(deadline) return math.floor(deadline - now / 1000) end

-- Removes the holders whose lease has ended, and returns the next end of a lease.
local function earliest_deadline()
  redis.call('ZREMRANGEBYSCORE', holder_key, '-inf', now_ms)
  return tonumber(redis.call('ZRANGE', holder_key, 0, 0, 'WITHSCORES')[2])
end

local function admits(mode)
  earliest_deadline()
  local holders = redis.call('ZCARD', holder_key)
  if holders == 0 then return true end
  if mode == 'x' or string.sub(redis.call('ZRANGE', holder_key, 0, 0)[1], 1, 1) == 'x' then
    return false
  end
  local max_members, permits = string.match(mode, '^s(%d+)m?(%d*)$')
  return max_members == '0' or holders + (tonumber(permits) or 1) <= tonumber(max_members)
end

-- Returns the member and the deadline of `token`, of several members the first. Without `mode` all
-- prefixes are tried. The set does not record the N of sN.
local function member_of(token, mode)
  local prefix = mode and (string.match(mode, 'm') or string.sub(mode, 1, 1))
  for _, tried in ipairs(prefix and { prefix } or { 's', 'x', 'm' }) do
    local member = tried .. ':' .. token
    local deadline = redis.call('ZSCORE', holder_key, member)
    if deadline then return member, tonumber(deadline) end
  end
end

-- Calls `change` for the first member of `token`, and for its other permits.
local function for_each_permit(token, first, change)
  change(first)
  if string.sub(first, 1, 1) ~= 'm' then return end
  local permit = 2
  while redis.call('ZSCORE', holder_key, 'n' .. permit .. ':' .. token) do
    change('n' .. permit .. ':' .. token)
    permit = permit + 1
  end
end

local function set_lease(token, remaining, mode)
  local deadline = now_ms_rounded_up + remaining
  local function set(member) redis.call('ZADD', holder_key, deadline, member) end
  local member = member_of(token, mode)
  if member then
    for_each_permit(token, member, set)
  else
    local permits = string.match(mode, 'm(%d+)$')
    set((permits and 'm' or string.sub(mode, 1, 1)) .. ':' .. token)
    for permit = 2, tonumber(permits) or 1 do
      set('n' .. permit .. ':' .. token)
    end
  end
  if redis.call('PTTL', holder_key) <= tonumber(remaining) then
    redis.call('PEXPIRE', holder_key, remaining + 1)
  end
  return 1
end

local function held_by(token, mode)
  earliest_deadline()
  return member_of(token, mode) ~= nil
end

local function remaining_of(token)
  local _, deadline = member_of(token)
  return remaining_until(deadline)
end

local function set_holder(token, lease, mode)
  if held_by(token, mode) or not admits(mode) then return false end
  return set_lease(token, lease, mode)
end

local function clear_holder(token)
  for_each_permit(token, (member_of(token)), function(member) redis.call('ZREM', holder_key, member) end)
end

-- Removes the holder with this token. Returns whether it was a holder.
local function evict(token)
  if not held_by(token) then return false end
  clear_holder(token)
  return true
end

local function busy_state()
  local deadline = earliest_deadline()
  return 'held', deadline and remaining_until(deadline) or 0
end

-- Changes nothing: the permit stays taken to the end of its lease anyway.
local function keep(grant) return held_by(token_of(grant)) and 1 or 0 end
named_operations.keep = { keep, 2 }

-- Shared locks have no fast path to mark waiters for, and cache nothing between commands.
local function mark_wanted() end
local function begin_operation() end
