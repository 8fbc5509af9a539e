-- Adds to an integer.
--
-- KEYS[1]  the value
-- ARGV[1]  what is added
-- ARGV[2]  the time to live of a new value in ms, `never`, or `missing`: a missing value stays so
--
-- Returns the sum, nil if the value is missing and stays so.
--
-- Atomic because a value that expires between two commands would come back without an end.
local is_new = redis.call('EXISTS', KEYS[1]) == 0
if is_new and ARGV[2] == 'missing' then return false end
local sum = redis.call('INCRBY', KEYS[1], ARGV[1])
if is_new and ARGV[2] ~= 'never' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
-- As text: a number of Lua has 53 bits.
return redis.call('GET', KEYS[1])
