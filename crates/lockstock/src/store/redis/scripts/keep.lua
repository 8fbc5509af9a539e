-- The operation keep of an exclusive lock.
--
-- Provides: the operation keep
-- Uses:     prelude, notify, exclusive

-- Leaves the lock taken for the rest of its lease. Notifies each waiter whose timeout is before
-- that; the others acquire again, so that the waiters behind them in their local queues learn
-- of it too.
--
-- grant, used: as for release.
--
-- Returns 1: kept, also if repeated; 0: `grant` did not hold the lock any more.
--
-- Atomic because between a compare and a set another client may acquire the lock.
local function keep(grant, used)
  local token = token_of(grant)
  read_holder()
  if holder_token ~= token then return 0 end
  if mark == 'kept' then return 1 end
  record_used_fences(used)
  set_mark('kept')
  local remaining = remaining_of()
  local waiters = redis.call('ZRANGE', queue_key, '0', '-1', 'WITHSCORES')
  for i = 1, #waiters, 2 do
    local client, wait, waiter = string.match(waiters[i], '^(%x+):%d+:(-?%d+):.*:(%x+)$')
    if client then
      local times_out = tonumber(wait) >= 0
        and waiters[i + 1] + wait * 1000 < now + remaining * 1000
      if times_out then
        redis.call('ZREM', queue_key, waiters[i])
        wake(client, 'kept:' .. waiter .. ':' .. remaining)
      else
        wake(client, 'ask:' .. waiter)
      end
    end
  end
  return 1
end
named_operations.keep = { keep, 2 }
