-- Runs the operations that have no reply yet, in their order, and returns the replies.
--
-- Provides: nothing
-- Uses:     all fragments before it

-- The state of a replica may be stale.
local function reject_on_replica()
  local written = redis.pcall('SET', KEYS[1], to_integer_string(highest), 'NX')
  if written and written.err and string.find(written.err, '^READONLY') then error(written) end
end

local function run(operation, arguments, at)
  begin_operation()
  return reply_of(operation, unpack(ARGV, at, at + arguments - 1))
end

local next_name = acquire_args(ACQUIRES + 1)

local function run_named()
  local operation, arguments = unpack(named_operations[ARGV[next_name]])
  local at = next_name + 1
  next_name = at + arguments
  return run(operation, arguments, at)
end

reject_on_replica()
for i = 1, OPERATIONS do
  holder_key, queue_key = KEYS[2 * i], KEYS[2 * i + 1]
  if replies[1 + i] == nil then
    if i <= RELEASES then
      replies[1 + i] = run(release, 2, release_args(i))
    elseif i <= RELEASES + ACQUIRES then
      replies[1 + i] = run(acquire, 6, acquire_args(i - RELEASES))
    else
      replies[1 + i] = run_named()
    end
  end
end
return finish()
