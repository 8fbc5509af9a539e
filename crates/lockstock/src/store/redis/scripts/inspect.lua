-- Reads the holder and the waiters of one name. Writes nothing.
--
-- KEYS[1]  holder, see exclusive.lua and shared.lua
-- KEYS[2]  queue, see prelude.lua
-- ARGV[1]  '1' for an exclusive lock
--
-- Returns {now in µs, holder, holders, waiters}. The holder of an exclusive lock is {mark, token,
-- fence, remaining ms}, or {'foreign', digest of its value, '0', remaining ms}. Holders are those
-- of a shared lock; they and the waiters are members of their sets, each followed by its score.
--
-- Atomic because a waiter that acquires the lock in between would be read twice or not at all.
local time = redis.call('TIME')

-- A key of another type counts as empty, so that the rest can still be read.
local function sorted(key)
  local members = redis.pcall('ZRANGE', key, 0, -1, 'WITHSCORES')
  return members.err and {} or members
end

local holder, holders = false, {}
if ARGV[1] ~= '1' then
  holders = sorted(KEYS[1])
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  local value = redis.pcall('GET', KEYS[1])
  if type(value) ~= 'string' then value = '' end
  local mark, token, fence = string.match(value, '^lockstock:(%l+):(%x+):(%d+)$')
  if not mark then
    mark, token, fence = 'foreign', string.sub(redis.sha1hex(value), 1, 16), '0'
  end
  holder = { mark, token, fence, redis.call('PTTL', KEYS[1]) }
end
return { time[1] * 1000000 + time[2], holder, holders, sorted(KEYS[2]) }
