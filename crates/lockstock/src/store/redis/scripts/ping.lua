-- Checks that scripts run on this server and may write, as locks need.
--
-- KEYS[1]  a key of the client's own
return redis.call('SET', KEYS[1], '1', 'PX', 1000) and 1
