-- Locks spend their lives free and without waiters. To acquire and to release those takes a
-- fraction of the commands, and nothing of what is set up below. What is not that simple is
-- left to what follows.
local HELD = 'lockstock:held:'
local taken = 0
-- What the holders' keys of the steps that release had when the call began.
local values

if RELEASES > 0 then
  local holders, free = {}, {}
  for i = 1, RELEASES do holders[i] = KEYS[2 * i] end
  values = redis.call('MGET', unpack(holders))
  for i = 1, RELEASES do
    if values[i] == ARGV[3 + 2 * i] then
      free[#free + 1] = holders[i]
      note_used(ARGV[4 + 2 * i])
      answers[1 + i], taken = 1, taken + 1
    end
  end
  if free[1] then redis.call('DEL', unpack(free)) end
end

if ACQUIRES > 0 then
  local queues = {}
  for i = 1, ACQUIRES do queues[i] = KEYS[2 * (RELEASES + i) + 1] end
  local some_wait = redis.call('EXISTS', unpack(queues)) > 0
  -- One for all: it is for each name that fences have to rise.
  local fence = math.max(now, highest + 1)
  local at = 5 + 2 * RELEASES
  -- Most want one fence: that is written once for all.
  local one = ':' .. whole(fence)
  for i = 1, ACQUIRES do
    if not some_wait or redis.call('EXISTS', queues[i]) == 0 then
      local last, text = fence, one
      if ARGV[at + 4] ~= '1' then
        last = fence + ARGV[at + 4] - 1
        text = ':' .. whole(last)
      end
      local value = HELD .. ARGV[at] .. text
      local holder = KEYS[2 * (RELEASES + i)]
      local held = redis.pcall('SET', holder, value, 'NX', 'PX', ARGV[at + 1])
      if held and not held.err then
        highest = math.max(highest, fence > now and last or fence)
        answers[1 + RELEASES + i] = last
        taken = taken + 1
      end
    end
    at = at + 6
  end
end

if taken == STEPS then return finish() end
