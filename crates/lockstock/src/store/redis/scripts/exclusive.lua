-- Exclusive locks: one holder at a time. The value of the holder key is
-- lockstock:MARK:TOKEN:FENCE; the key expires with the lease and is absent if the lock is free.
-- This is the format that redis-py, django-redis and rslock can contend with. FENCE is the last
-- fence of the grant. Marks:
--   held   held, no waiters
--   want   held, there may be waiters
--   kept   taken for the rest of the lease, although the holder is done
--
-- Provides: SHARING, read_holder, begin_operation, set_mark, set_holder, held_by, remaining_of,
--           admits, clear_holder, evict, busy_state, set_lease, mark_wanted, and the state of
--           the last read_holder: mark, holder_token, holder_fence
-- Uses:     prelude
local SHARING = false

-- Cached per operation. mark is 'free' if there is no holder, and 'foreign' if the holder is
-- another program.
local mark, holder_token, holder_fence

local function read_holder()
  if mark then return mark end
  local value = redis.call('GET', holder_key)
  if value then
    mark, holder_token, holder_fence = string.match(value, '^lockstock:(%l+):(%x+):(%d+)$')
    mark = mark or 'foreign'
  else
    mark, holder_token = 'free', nil
  end
  return mark
end

local function begin_operation() mark = nil end

local function set_mark(new)
  mark = new
  local value = table.concat({ 'lockstock', mark, holder_token, holder_fence }, ':')
  redis.call('SET', holder_key, value, 'KEEPTTL')
end

-- Makes `token` the holder if the lock is free. `wanted`: there are waiters.
local function set_holder(token, lease, mode, fence, wanted)
  local new, text = wanted and 'want' or 'held', to_integer_string(fence)
  local value = table.concat({ 'lockstock', new, token, text }, ':')
  if not redis.call('SET', holder_key, value, 'NX', 'PX', lease) then return false end
  mark, holder_token, holder_fence = new, token, text
  return true
end

-- Returns whether `token` holds the lock, and its fence.
local function held_by(token)
  if read_holder() ~= 'kept' and holder_token == token then
    return true, tonumber(holder_fence)
  end
end

local function remaining_of() return redis.call('PTTL', holder_key) end

local function admits() return read_holder() == 'free' end

local function clear_holder()
  redis.call('DEL', holder_key)
  mark, holder_token = 'free', nil
end

-- Removes the holder with this id, see rare.lua. Returns whether it was the holder.
local function evict(id)
  local holder
  if read_holder() == 'foreign' then
    holder = 'foreign:' .. string.sub(redis.sha1hex(redis.call('GET', holder_key)), 1, 16)
  else
    holder = holder_token
  end
  if holder ~= id then return false end
  -- How many fences of its block it has used is unknown: count all of them.
  if holder_token then highest = math.max(highest, holder_fence) end
  clear_holder()
  return true
end

-- Returns 'held', 'kept', or 'foreign' for a holder that notifies no waiters; and the remaining
-- ms, -1 if the holder never expires.
local function busy_state()
  local state = read_holder()
  if state == 'free' then return 'held', 0 end
  return state == 'want' and 'held' or state, remaining_of()
end

local function set_lease(_, remaining) return redis.call('PEXPIRE', holder_key, remaining) end

-- Marks a lock that has waiters, so that the fast path of release leaves it alone.
local function mark_wanted()
  if read_holder() == 'held' then set_mark('want') end
end
