-- Make a partition known to a Redis process: at its first use, and whenever the process is a new one.
-- KEYS mark   ARGV run, server, force ('1': the data is ours whatever its run says)
-- A new process may have forgotten its last writes, so the numbers it gives out jump over all that may have been given
-- out already: `sg` tells sessions to jump (partition.lua), epochs and retained versions jump here.
local mark = redis.call('HMGET', KEYS[1], 'run', 'srv')
if mark[1] and mark[1] ~= ARGV[1] and ARGV[3] ~= '1' then return {'OTHER'} end
if not mark[1] then
  -- Versions begin with the clock, so that none of an emptied Redis comes back.
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'sg', 1, 'ver', time[1] .. '000000')
elseif mark[1] ~= ARGV[1] or mark[2] ~= ARGV[2] then
  redis.call('HINCRBY', KEYS[1], 'sg', 1)
  -- A minute, since the clock of another machine may be behind.
  local time = redis.call('TIME')
  local epoch = math.max(tonumber(redis.call('HGET', KEYS[1], 'ep') or '0'), time[1] * 1000000 + time[2]) + 60000000
  redis.call('HSET', KEYS[1], 'ep', string.format('%.0f', epoch))
  redis.call('HINCRBY', KEYS[1], 'ver', 1000000)
end
redis.call('HSET', KEYS[1], 'run', ARGV[1], 'srv', ARGV[2])
return {'OK'}
