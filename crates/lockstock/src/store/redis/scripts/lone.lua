-- A call with one operation: the release of a lock without waiters, or the acquire of a free one with one
-- fence. Before everything else, because Redis sets up what a script declares on every call: this takes
-- three quarters of the time that the fast path of any number of operations does. All other calls are left to
-- the fragments below, which do not read again what is read here.
--
-- Provides: lone_value, lone_waits
-- Uses:     nothing

-- Of a single release, the value of its holder key, false if that is not a string.
local lone_value
-- Whether a single acquire finds waiters.
local lone_waits = false

if #KEYS == 3 and #ARGV == 6 and ARGV[3] == '1' and ARGV[6] == '' then
  lone_value = redis.pcall('GET', KEYS[2])
  if lone_value == ARGV[5] then
    redis.call('DEL', KEYS[2])
    local time = redis.call('TIME')
    return { time[1] * 1000000 + time[2], 1 }
  end
  if type(lone_value) ~= 'string' then lone_value = false end
elseif #KEYS == 3 and #ARGV == 10 and ARGV[4] == '1' and ARGV[9] == '1' then
  lone_waits = redis.call('EXISTS', KEYS[3]) == 1
  if not lone_waits then
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
    -- As mint.
    local fence = math.max(now, (tonumber(redis.call('GET', KEYS[1]) or 0) or 0) + 1)
    local millions = math.floor(fence / 1000000)
    local text = string.format('%d%06d', millions, fence - millions * 1000000)
    local value = 'lockstock:held:' .. ARGV[5] .. ':' .. text
    local set = redis.pcall('SET', KEYS[2], value, 'NX', 'PX', ARGV[6])
    if set and not set.err then
      -- As finish.
      redis.pcall('SET', KEYS[1], text)
      return { now, fence }
    end
  end
end
