-- What the other scripts share: read in front of each of them.
--
-- KEYS[1]  the holder's key: a mark and a token, with an expiry; absent when free
-- KEYS[2]  the fence counter: the last fence given out
-- KEYS[3]  the queue: a sorted set of waiters. The score is the time of arrival in µs by
--          this server's clock; the member is PROCESS:LEASE:WAIT:TOKEN, times in ms, WAIT -1
--          for a waiter that waits as long as it takes
--
-- Messages go to the channel lockstock:wake:PROCESS, where each process listens for all of
-- its waiters:
--   held:TOKEN:FENCE:LEASE:NOW   the lock is yours, since NOW (µs), for LEASE ms
--   kept:TOKEN:LEFT              nobody gets it for LEFT ms; you are out of the queue
--   ask:TOKEN                    what you know of the holder is not true any more: ask again
local HELD, KEPT = 'lockstock:held:', 'lockstock:kept:'
local FENCE_LIFE, QUEUE_LIFE = 30 * 24 * 3600 * 1000, 2 * 24 * 3600 * 1000

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- Numbers beyond 2^31 keep their digits only when written like this.
local function whole(number) return string.format('%.0f', number) end

-- Makes `token` the holder and answers its fence. The clock's microseconds keep fences
-- rising when the counter was lost or rolled back (flush, restart without a log, failover
-- to a stale replica). Exact below 2^53, which is the year 2255.
local function grant(token, lease)
  local fence = math.max(now, tonumber(redis.call('GET', KEYS[2]) or 0) + 1)
  redis.call('SET', KEYS[2], whole(fence), 'PX', FENCE_LIFE)
  redis.call('SET', KEYS[1], HELD .. token, 'PX', lease)
  return fence
end

local function wake(process, message)
  return redis.call('PUBLISH', 'lockstock:wake:' .. process, message)
end

-- Lets the first waiter ask again: it sleeps until the end of a lease that may come sooner
-- now.
local function alarm()
  local head = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
  if head then
    local process, token = string.match(head, '^(%x+):.*:(%x+)$')
    wake(process, 'ask:' .. token)
  end
end

-- Gives the lock to the first waiter that is still there, or frees it. The grant is the
-- lock: whoever hears it has nothing left to ask. Nobody hears: that process is gone.
local function hand_over()
  local left = redis.call('PTTL', KEYS[1])
  while true do
    local head = redis.call('ZPOPMIN', KEYS[3])
    if not head[1] then
      redis.call('DEL', KEYS[1])
      return
    end
    local process, lease, wait, token = string.match(head[1], '^(%x+):(%d+):(-?%d+):(%x+)$')
    local in_time = tonumber(wait) < 0 or head[2] + wait * 1000 >= now
    if in_time then
      local fence = grant(token, lease)
      local message = 'held:' .. token .. ':' .. whole(fence) .. ':' .. lease .. ':' .. whole(now)
      if wake(process, message) > 0 then
        if tonumber(lease) < left then alarm() end
        return
      end
    end
  end
end
