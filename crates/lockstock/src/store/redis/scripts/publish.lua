-- Publishes a message if its channel has subscribers. Returns how many.
--
-- KEYS[1]  the channel. In a Cluster the node of its slot has the subscribers
-- ARGV[1]  1 in a Cluster, where only sharded channels report the number of subscribers
-- ARGV[2]  the message, if there is one
local sharded = ARGV[1] == '1'
local count = redis.call('PUBSUB', sharded and 'SHARDNUMSUB' or 'NUMSUB', KEYS[1])[2]
if ARGV[2] and count > 0 then
  redis.call(sharded and 'SPUBLISH' or 'PUBLISH', KEYS[1], ARGV[2])
end
return count
