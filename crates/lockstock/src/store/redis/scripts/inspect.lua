-- Looks at one name: who holds it and who waits, all of one moment. Changes nothing.
--
-- KEYS[1]  holder, see exclusive.lua and shared.lua
-- KEYS[2]  queue, see prelude.lua
-- ARGV[1]  '1' if one holds at a time
--
-- Answers {now in µs, holder, sharers, waiters}. The holder of a lock is {mark, token, fence,
-- ms left}, or {'foreign', digest of its value, '0', ms left}. Sharers are those who hold what
-- can be shared; they and the waiters are members of their sets, each with its score behind it.
--
-- Atomic because a waiter who is handed the lock would else be seen twice or not at all.
local time = redis.call('TIME')

-- What somebody else has put in its place is no reason to tell nothing of the rest.
local function sorted(key)
  local members = redis.pcall('ZRANGE', key, 0, -1, 'WITHSCORES')
  return members.err and {} or members
end

local holder, sharers = false, {}
if ARGV[1] ~= '1' then
  sharers = sorted(KEYS[1])
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  local value = redis.pcall('GET', KEYS[1])
  if type(value) ~= 'string' then value = '' end
  local mark, token, fence = string.match(value, '^lockstock:(%l+):(%x+):(%d+)$')
  if not mark then
    mark, token, fence = 'foreign', string.sub(redis.sha1hex(value), 1, 16), '0'
  end
  holder = { mark, token, fence, redis.call('PTTL', KEYS[1]) }
end
return { time[1] * 1000000 + time[2], holder, sharers, sorted(KEYS[2]) }
