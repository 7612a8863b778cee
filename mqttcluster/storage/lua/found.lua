-- Found the cluster, or learn who founded it.
-- KEYS cfg   ARGV format, a new run, partitions, retained partitions
-- Only the first caller's values are kept: all nodes must agree on the partitions, and `run` tells this data from any
-- that was in this Redis before.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'format', ARGV[1], 'run', ARGV[2], 'N', ARGV[3], 'R', ARGV[4])
end
return redis.call('HMGET', KEYS[1], 'format', 'run', 'N', 'R')
