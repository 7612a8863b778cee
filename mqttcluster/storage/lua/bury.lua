-- Declare a node dead, or take over the clean-up after it from a node that is silent, or end that.
-- KEYS cfg nodes routes graves   ARGV run, node, silence ms, claimer, at once 0/1, finished 0/1
-- A grave is "time claimer" while the clean-up is in somebody's hands, and "time done" for a day after.
if redis.call('HGET', KEYS[1], 'run') ~= ARGV[1] then return 'LOST' end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local node, claimer = ARGV[2], ARGV[4]
local grave = redis.call('HGET', KEYS[4], node)
local by = grave and string.match(grave, '^%d+ (.+)$')
if ARGV[6] == '1' then
  if by ~= claimer then return 'NO' end
  redis.call('HSET', KEYS[4], node, string.format('%.0f done', now))
  local all = redis.call('HGETALL', KEYS[4])
  for i = 1, #all, 2 do
    local at = string.match(all[i + 1], '^(%d+) done$')
    if at and tonumber(at) + 86400000 < now then redis.call('HDEL', KEYS[4], all[i]) end
  end
  return 'OK'
end
if by then
  local holder = by ~= claimer and redis.call('HGET', KEYS[2], by)
  if by == 'done' or (holder and tonumber(string.match(holder, '^(%d+)')) >= now) then return 'NO' end
  redis.call('HSET', KEYS[4], node, string.format('%.0f %s', now, claimer))
  return 'CLAIMED'
end
local member = redis.call('HGET', KEYS[2], node)
if not member then return 'NO' end
if ARGV[5] ~= '1' and tonumber(string.match(member, '^(%d+)')) + tonumber(ARGV[3]) > now then return 'ALIVE' end
redis.call('HDEL', KEYS[2], node)
redis.call('HSET', KEYS[4], node, string.format('%.0f %s', now, claimer))
local number = redis.call('HINCRBY', KEYS[1], 'rn', 1)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 10000, number .. '-0',
           'o', claimer, 't', string.format('%.0f', now), 'g', node)
return 'CLAIMED'
