-- Acquires and releases locks that are free and without waiters, which most locks are most of
-- the time. This takes a fraction of the commands of the general operations and none of the
-- set-up below. All other operations are left without a reply, for contended.lua and
-- dispatch.lua.
--
-- The offsets into ARGV are written out: arguments.lua would cost each call its functions.
--
-- Provides: HELD, done, holder_values
-- Uses:     prelude, lone
local HELD = 'lockstock:held:'
-- Number of operations that have a reply.
local done = 0
-- Values of the holder keys of the releases at the beginning of the call.
local holder_values

if RELEASES > 0 then
  local holders, released = {}, {}
  for i = 1, RELEASES do holders[i] = KEYS[2 * i] end
  holder_values = lone_value ~= nil and { lone_value } or redis.call('MGET', unpack(holders))
  for i = 1, RELEASES do
    if holder_values[i] == ARGV[3 + 2 * i] then
      released[#released + 1] = holders[i]
      record_used_fences(ARGV[4 + 2 * i])
      replies[1 + i], done = 1, done + 1
    end
  end
  if released[1] then redis.call('DEL', unpack(released)) end
end

if ACQUIRES > 0 and not lone_waits then
  local queues = {}
  for i = 1, ACQUIRES do queues[i] = KEYS[2 * (RELEASES + i) + 1] end
  local some_wait = redis.call('EXISTS', unpack(queues)) > 0
  -- One fence for all acquires: fences have to rise only within a name.
  local fence = math.max(now, highest + 1)
  local at = 5 + 2 * RELEASES
  -- Most acquires want one fence, so its text is formatted once.
  local one = ':' .. to_integer_string(fence)
  for i = 1, ACQUIRES do
    if not some_wait or redis.call('EXISTS', queues[i]) == 0 then
      local last, text = fence, one
      if ARGV[at + 4] ~= '1' then
        last = fence + ARGV[at + 4] - 1
        text = ':' .. to_integer_string(last)
      end
      local value = HELD .. ARGV[at] .. text
      local holder = KEYS[2 * (RELEASES + i)]
      local set = redis.pcall('SET', holder, value, 'NX', 'PX', ARGV[at + 1])
      if set and not set.err then
        highest = math.max(highest, fence > now and last or fence)
        replies[1 + RELEASES + i] = last
        done = done + 1
      end
    end
    at = at + 6
  end
end

if done == OPERATIONS then return finish() end
