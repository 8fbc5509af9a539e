-- One holder at a time. Its key holds lockstock:MARK:TOKEN:FENCE, with an expiry, and is
-- absent when the lock is free. Plain on purpose: redis-py, django-redis and rslock can
-- contend. FENCE is the last of those that came with the grant; a mark is
--   held   held, and nobody waits
--   want   held, and somebody may wait
--   kept   not to be had for the rest of the lease

-- Mark, token and fence of the holder; a mark of 'foreign' if it is none of ours.
local function holder()
  local value = redis.call('GET', holder_key)
  if not value then return nil end
  local mark, token, fence = string.match(value, '^lockstock:(%l+):(%x+):(%d+)$')
  return mark or 'foreign', token, fence
end

local function set_mark(mark, token, fence)
  redis.call('SET', holder_key, 'lockstock:' .. mark .. ':' .. token .. ':' .. fence, 'KEEPTTL')
end

-- Takes the lock if nobody has it.
local function take(token, lease, mode, fence)
  local value = 'lockstock:held:' .. token .. ':' .. whole(fence)
  return redis.call('SET', holder_key, value, 'NX', 'PX', lease)
end

-- The ms left if `token` has it, and its fence.
local function held_by(token)
  local mark, held_by, fence = holder()
  if token == held_by and mark ~= 'kept' then
    return redis.call('PTTL', holder_key), tonumber(fence)
  end
end

local function admits() return redis.call('EXISTS', holder_key) == 0 end

local function vacate() redis.call('DEL', holder_key) end

-- Ends the hold of the one with this id, see force.lua; whether it was the holder.
local function evict(id)
  local mark, token, fence = holder()
  if mark == 'foreign' then
    token = 'foreign:' .. string.sub(redis.sha1hex(redis.call('GET', holder_key)), 1, 16)
  end
  if token ~= id then return false end
  -- It does not say how many of its fences it has used: all of them.
  if fence then highest = math.max(highest, fence) end
  vacate()
  return true
end

-- Who has it: 'held', 'kept', or 'foreign' for one that is none of ours and tells nobody; and
-- the ms left, -1 if it never expires.
local function standing()
  local mark = holder()
  if not mark then return 'held', 0 end
  return mark == 'want' and 'held' or mark, redis.call('PTTL', holder_key)
end

local function lasts(_, left) return redis.call('PEXPIRE', holder_key, left) end

-- Marks what somebody waits for, so that the short cuts need not look.
local function mark_wanted()
  local mark, token, fence = holder()
  if mark == 'held' and redis.call('EXISTS', queue_key) == 1 then
    set_mark('want', token, fence)
  end
end
