-- Takes those steps that no short cut has taken, in their order.

-- What a replica tells of a lock may be long past.
local function refuse_on_replica()
  local written = redis.pcall('SET', KEYS[1], whole(highest), 'NX')
  if written and written.err and string.find(written.err, '^READONLY') then error(written) end
end

local function take_step(step, arguments, at)
  begin_step()
  return answer_of(step, unpack(ARGV, at, at + arguments - 1))
end

-- Of the others: their arguments have names before them.
local next_other = 5 + 2 * RELEASES + 6 * ACQUIRES

local function other()
  local step, arguments = unpack(named[ARGV[next_other]])
  local at = next_other + 1
  next_other = at + arguments
  return take_step(step, arguments, at)
end

refuse_on_replica()
for i = 1, STEPS do
  holder_key, queue_key = KEYS[2 * i], KEYS[2 * i + 1]
  if answers[1 + i] == nil then
    if i <= RELEASES then
      answers[1 + i] = take_step(release, 2, 3 + 2 * i)
    elseif i <= RELEASES + ACQUIRES then
      answers[1 + i] = take_step(acquire, 6, 5 + 2 * RELEASES + 6 * (i - RELEASES - 1))
    else
      answers[1 + i] = other()
    end
  end
end
return finish()
