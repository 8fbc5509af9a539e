-- The common beginning of the lock scripts, of LOCKS behind lone.lua. Each script is a concatenation of fragments of this
-- folder, see scripts.rs:
--
--   LOCKS       lone, prelude, fast_path, arguments, notify, contended, exclusive, queue,
--               acquire_release, keep, dispatch
--   LOCKS_RARE  prelude, arguments, notify, exclusive, queue, acquire_release, rare, dispatch
--   SHARED      prelude, arguments, notify, shared, queue, acquire_release, rare, dispatch
--
-- Redis executes the script from top to bottom on every call, so the fast paths come first and
-- return early.
--
-- A call contains any number of operations on keys of one Cluster slot: first all releases, then
-- all acquires, then the named operations.
--
-- KEYS[1]  clock: the highest fence that was recorded, see mint
-- KEYS     two for each operation:
--            holder  the holder or holders: see exclusive.lua and shared.lua
--            queue   a sorted set of waiters. The score is the time of arrival in µs by the
--                    server's clock; the member is CLIENT:LEASE:WAIT:FENCES:MODE:TOKEN, with
--                    times in ms and WAIT -1 for a waiter without a timeout
-- ARGV[1]  prefix of the channels: 'lockstock:wake:', or in a Cluster 'lockstock:wake:{TAG}:'
--          with a tag of the keys' slot
-- ARGV[2]  id of the client that sends the call
-- ARGV[3]  number of releases, ARGV[4] number of acquires
-- ARGV     then the arguments of each operation, see acquire_release.lua, keep.lua and rare.lua;
--          those of a named operation follow its name
--
-- Returns {now, reply of the first operation, …}; now is the server's clock in µs. If an
-- operation fails, its reply is {'failed', reason}, and the other operations still run.
--
-- Each client subscribes to one channel for all of its waiters. Messages on it:
--   held:TOKEN:FENCE:LEASE:NOW   TOKEN acquired the lock at NOW (µs), for LEASE ms. If that is
--                                less than its lease: acquire again, which extends the grant
--   soon:TOKEN:MS                the lock may be free in MS: acquire again then
--   kept:TOKEN:REMAINING         the lock is kept for REMAINING ms; TOKEN has left the queue
--   lost:TOKEN                   the lock of TOKEN was released by force
--   ask:TOKEN                    the waiter's view of the holder is stale: acquire again
--
-- Every operation is idempotent: it may be repeated with the same arguments.
--
-- Provides: CHANNELS, CLIENT, RELEASES, ACQUIRES, OPERATIONS, to_integer_string, now, highest,
--           replies, holder_key, queue_key, named_operations, mint, record_used_fences, finish
-- Uses:     nothing
local CHANNELS, CLIENT = ARGV[1], ARGV[2]
local RELEASES, ACQUIRES = tonumber(ARGV[3]), tonumber(ARGV[4])
local OPERATIONS = (#KEYS - 1) / 2

-- tostring() would round numbers of this size. Written in two halves, because Redis formats
-- fractions slowly.
local function to_integer_string(number)
  local millions = math.floor(number / 1000000)
  return string.format('%d%06d', millions, number - millions * 1000000)
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local highest = tonumber(redis.call('GET', KEYS[1]) or 0) or 0
local highest_before = highest

local replies = { now }
-- The keys of the current operation.
local holder_key, queue_key

-- Name → { function, number of arguments }.
local named_operations = {}

-- Reserves `fences` numbers for a new holder, all higher than any before, and returns the last.
-- The clock's microseconds keep fences rising if the clock key was lost or rolled back (flush,
-- restart without a log, failover to a stale replica). Exact below 2^53, until the year 2255.
--
-- While the server's clock is ahead of the clock key, only the first number of a block is
-- recorded: a release reports how far the holder got, and without a release the lease has to
-- end, which takes longer than a block has microseconds. If the clock key is ahead, only the key
-- keeps count, so the whole block is recorded.
local function mint(fences)
  local first = math.max(now, highest + 1)
  highest = first > now and first + fences - 1 or first
  return first + fences - 1
end

local function record_used_fences(used)
  if used ~= '' then highest = math.max(highest, used) end
end

local function finish()
  -- With its memory full Redis rejects only the first write of a script: if it is this one, no
  -- lock was granted.
  if highest ~= highest_before then redis.pcall('SET', KEYS[1], to_integer_string(highest)) end
  return replies
end
