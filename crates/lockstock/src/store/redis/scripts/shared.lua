-- Several holders at a time: the permits of a semaphore, the readers and the writer of a
-- read-write lock. The holder's key is a sorted set of MODE:TOKEN, the score is the end of
-- the lease in ms by this server's clock. A mode is
--   x   alone: a writer
--   sN  with N - 1 others at most, or with any number of them if N is 0: permits, readers

local SHARING = true

-- A lease ends with the whole ms that is not before its time.
local now_ms = math.floor(now / 1000)
local begins = math.ceil(now / 1000)
local function left_until(ends) return math.floor(ends - now / 1000) end

-- Forgets those whose lease has ended, and answers when the next one does.
local function earliest_end()
  redis.call('ZREMRANGEBYSCORE', holder_key, '-inf', now_ms)
  return tonumber(redis.call('ZRANGE', holder_key, 0, 0, 'WITHSCORES')[2])
end

local function admits(mode)
  earliest_end()
  local holders = redis.call('ZCARD', holder_key)
  if holders == 0 then return true end
  if mode == 'x' or string.sub(redis.call('ZRANGE', holder_key, 0, 0)[1], 1, 1) == 'x' then
    return false
  end
  local most = tonumber(string.sub(mode, 2))
  return most == 0 or holders < most
end

-- As the set has it: all that share are alike there, whatever their number.
local function member_of(token)
  for _, mode in ipairs({ 's:', 'x:' }) do
    local ends = redis.call('ZSCORE', holder_key, mode .. token)
    if ends then return mode .. token, tonumber(ends) end
  end
end

local function lasts(token, left, mode)
  local member = member_of(token) or string.sub(mode, 1, 1) .. ':' .. token
  redis.call('ZADD', holder_key, begins + left, member)
  if redis.call('PTTL', holder_key) <= tonumber(left) then
    redis.call('PEXPIRE', holder_key, left + 1)
  end
  return 1
end

local function held_by(token)
  earliest_end()
  return member_of(token) ~= nil
end

local function left_of(token)
  local _, ends = member_of(token)
  return left_until(ends)
end

local function take(token, lease, mode)
  if held_by(token) or not admits(mode) then return false end
  return lasts(token, lease, mode)
end

local function vacate(token) redis.call('ZREM', holder_key, (member_of(token))) end

-- Ends the hold of the one with this token; whether it was among the holders.
local function evict(token)
  if not held_by(token) then return false end
  vacate(token)
  return true
end

local function standing()
  local ends = earliest_end()
  return 'held', ends and left_until(ends) or 0
end

-- It stays taken to the end of its lease, as it would anyway.
local function keep(claim) return held_by(token_of(claim)) and 1 or 0 end
named.keep = { keep, 2 }

-- What is shared has no short cuts, nothing to mark for them, and nothing to remember.
local function mark_wanted() end
local function begin_step() end
