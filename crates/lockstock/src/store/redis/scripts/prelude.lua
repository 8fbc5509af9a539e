-- The beginning of each script. A script is put together from the files of this folder:
--
--   locks          head, free, tell, waited, exclusive, queue, steps, keep,   each
--   locks, rarely  head,       tell,         exclusive, queue, steps, others, each
--   shares         head,       tell,         shared,    queue, steps, others, each
--
-- The server sets a script up anew each time that it runs it, as far as it gets: what is run
-- all the time comes first.
--
-- A call takes any number of steps, all of them in one Cluster slot: first those that
-- release, then those that acquire, then the others.
--
-- KEYS[1]  the clock: the highest fence of all that are noted, see mint
-- KEYS     two for each step:
--            holder  who holds: see exclusive.lua and shared.lua
--            queue   a sorted set of waiters. The score is the time of arrival in µs by this
--                    server's clock; the member is PROCESS:LEASE:WAIT:BLOCK:MODE:TOKEN, times
--                    in ms, WAIT -1 for a waiter that waits as long as it takes
-- ARGV[1]  what the names of channels begin with: 'lockstock:wake:', or in a Cluster
--          'lockstock:wake:{TAG}:' with a tag of the keys' slot
-- ARGV[2]  the process that asks
-- ARGV[3]  how many steps release, ARGV[4] how many acquire
-- ARGV     then the arguments of each step, see acquire_release.lua and rare.lua; those of the others
--          behind the name of the step
--
-- Answers {now, answer of the first step, …}: now is this server's clock in µs. A step that
-- failed answers {'failed', why}, and the others are taken nevertheless.
--
-- Each process listens on one channel for all of its waiters, and is told there:
--   held:TOKEN:FENCE:LEASE:NOW   the lock is yours, since NOW (µs), for LEASE ms
--   kept:TOKEN:LEFT              nobody gets it for LEFT ms; you are out of the queue
--   lost:TOKEN                   this lock of yours was taken away
--   ask:TOKEN                    what you know of the holder is not true any more: ask again
--
-- Every step may be taken twice with the same arguments.
local CHANNEL, PROCESS = ARGV[1], ARGV[2]
local RELEASES, ACQUIRES = tonumber(ARGV[3]), tonumber(ARGV[4])
local STEPS = (#KEYS - 1) / 2

-- Numbers of this size keep their digits only when written like this. In two halves, because
-- the server is slow at writing fractions.
local function whole(number)
  local millions = math.floor(number / 1000000)
  return string.format('%d%06d', millions, number - millions * 1000000)
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local highest = tonumber(redis.call('GET', KEYS[1]) or 0) or 0
local highest_before = highest

local answers = { now }
-- Of the step at hand.
local holder_key, queue_key

-- Steps that have names, and how many arguments they take.
local named = {}

-- Fences for a new holder: the last of `block` numbers, all higher than any before. The clock's
-- microseconds keep them rising when the clock's key was lost or rolled back (flush, restart
-- without a log, failover to a stale replica). Exact below 2^53, the year 2255.
--
-- Of a block only the first is noted, for as long as the clock goes on: a holder says how far it
-- got when it is done, and if it never does its lease ends, which takes longer than a block has
-- microseconds. When the clock's key is ahead of the clock, nothing but the key keeps count.
local function mint(block)
  local fence = math.max(now, highest + 1)
  highest = fence > now and fence + block - 1 or fence
  return fence + block - 1
end

local function note_used(used)
  if used ~= '' then highest = math.max(highest, used) end
end

local function finish()
  -- Refused only when nothing was written, and so nothing was granted.
  if highest ~= highest_before then redis.pcall('SET', KEYS[1], whole(highest)) end
  return answers
end
