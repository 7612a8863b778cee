-- The first lines of every script that works on a partition.
-- KEYS[1] = the partition's mark   ARGV[1..3] = run, server, node
-- LOST: this is not the data that the caller knows. REGEN: the Redis process is another one than the mark knows, so
-- it may have forgotten its last writes; numbers must jump first (mark.lua). DEAD: the other nodes have buried the caller.
local mark = redis.call('HMGET', KEYS[1], 'run', 'srv', 'sg', 'b:' .. ARGV[3], 'dead:' .. ARGV[3])
if mark[1] ~= ARGV[1] then return {'LOST'} end
if mark[2] ~= ARGV[2] then return {'REGEN'} end
if mark[5] then return {'DEAD'} end
local generation = mark[3]

local function digits(number) return string.format('%.0f', number) end
