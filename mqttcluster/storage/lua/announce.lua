-- Write changes of the routes, and learn who is there at that very moment.
-- KEYS cfg nodes routes   ARGV run, node, changes
-- Members are read after the change is written: a node that joins in between begins behind it.
if redis.call('HGET', KEYS[1], 'run') ~= ARGV[1] then return {'LOST'} end
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then return {'DEAD'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local number = redis.call('HINCRBY', KEYS[1], 'rn', 1)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 10000, number .. '-0',
           'o', ARGV[2], 't', string.format('%.0f', now), 'b', ARGV[3])
return {'OK', number, now, redis.call('HGETALL', KEYS[2])}
