-- One holder at a time. Its key holds lockstock:MARK:TOKEN:FENCE, with an expiry, and is
-- absent when the lock is free. Plain on purpose: redis-py, django-redis and rslock can
-- contend. FENCE is the last of those that came with the grant; a mark is
--   held   held, and nobody waits
--   want   held, and somebody may wait
--   kept   not to be had for the rest of the lease
local SHARING = false

-- The holder, once looked at: mark 'free' if there is none, 'foreign' if it is none of ours.
local mark, owner, owners_fence

local function look()
  if mark then return mark end
  local value = redis.call('GET', holder_key)
  if value then
    mark, owner, owners_fence = string.match(value, '^lockstock:(%l+):(%x+):(%d+)$')
    mark = mark or 'foreign'
  else
    mark, owner = 'free', nil
  end
  return mark
end

local function begin_step() mark = nil end

local function set_mark(new)
  mark = new
  local value = table.concat({ 'lockstock', mark, owner, owners_fence }, ':')
  redis.call('SET', holder_key, value, 'KEEPTTL')
end

-- Takes the lock if nobody has it. `wanted`: somebody else waits for it.
local function take(token, lease, mode, fence, wanted)
  local new, text = wanted and 'want' or 'held', whole(fence)
  local value = table.concat({ 'lockstock', new, token, text }, ':')
  if not redis.call('SET', holder_key, value, 'NX', 'PX', lease) then return false end
  mark, owner, owners_fence = new, token, text
  return true
end

-- Whether `token` has it, and with which fence.
local function held_by(token)
  if look() ~= 'kept' and owner == token then return true, tonumber(owners_fence) end
end

local function left_of() return redis.call('PTTL', holder_key) end

local function admits() return look() == 'free' end

local function vacate()
  redis.call('DEL', holder_key)
  mark, owner = 'free', nil
end

-- Ends the hold of the one with this id, see rare.lua; whether it was the holder.
local function evict(id)
  local holder
  if look() == 'foreign' then
    holder = 'foreign:' .. string.sub(redis.sha1hex(redis.call('GET', holder_key)), 1, 16)
  else
    holder = owner
  end
  if holder ~= id then return false end
  -- It does not say how many of its fences it has used: all of them.
  if owner then highest = math.max(highest, owners_fence) end
  vacate()
  return true
end

-- Who has it: 'held', 'kept', or 'foreign' for one that is none of ours and tells nobody; and
-- the ms left, -1 if it never expires.
local function standing()
  local how = look()
  if how == 'free' then return 'held', 0 end
  return how == 'want' and 'held' or how, left_of()
end

local function lasts(_, left) return redis.call('PEXPIRE', holder_key, left) end

-- Marks what somebody waits for, so that the short cuts need not look.
local function mark_wanted()
  if look() == 'held' then set_mark('want') end
end
