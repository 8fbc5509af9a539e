-- Removes a value, unless it is another one by now.
--
-- KEYS[1]  the value
-- ARGV[1]  what it has to be
--
-- Returns the number of removed values.
--
-- What is no string is another value, and no error.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])
