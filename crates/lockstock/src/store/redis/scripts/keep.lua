-- Leaves the lock taken for the rest of its lease, for everybody, and tells each waiter that
-- cannot wait that long; the others ask again, so that those behind them in their process
-- hear of it too.
--
-- claim, used: as for release.
--
-- Answers 1: kept (also when asked again), 0: it was not ours any more.
--
-- Atomic because between a compare and a set the next holder may come.
local function keep(claim, used)
  local token = token_of(claim)
  look()
  if owner ~= token then return 0 end
  if mark == 'kept' then return 1 end
  note_used(used)
  set_mark('kept')
  local left = left_of()
  local waiters = redis.call('ZRANGE', queue_key, '0', '-1', 'WITHSCORES')
  for i = 1, #waiters, 2 do
    local process, wait, waiter = string.match(waiters[i], '^(%x+):%d+:(-?%d+):.*:(%x+)$')
    if process then
      local in_vain = tonumber(wait) >= 0 and waiters[i + 1] + wait * 1000 < now + left * 1000
      if in_vain then
        redis.call('ZREM', queue_key, waiters[i])
        wake(process, 'kept:' .. waiter .. ':' .. left)
      else
        wake(process, 'ask:' .. waiter)
      end
    end
  end
  return 1
end
named.keep = { keep, 2 }
