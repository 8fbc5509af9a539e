-- Finds out whether locks can be had: whether scripts run here, and may write.
--
-- KEYS[1]  a key of the process that asks
return redis.call('SET', KEYS[1], '1', 'PX', 1000) and 1
