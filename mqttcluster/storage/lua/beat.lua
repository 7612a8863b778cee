-- A sign of life: renew the lease, and learn how the others are.
-- KEYS cfg nodes routes graves   ARGV run, node, lease ms, join 0/1, loaded 0/1, applied, stale ms, info
-- A member is written as "until state applied info". A node is live while it has applied all routes; one that lapsed or
-- reads the state anew is joining until then. One that does not keep up with the routes gets no longer lease [G5].
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('HGET', KEYS[1], 'run') ~= ARGV[1] then return {'LOST'} end
local lease, loaded, applied, stale = tonumber(ARGV[3]), ARGV[5] == '1', tonumber(ARGV[6]), tonumber(ARGV[7])
local member = redis.call('HGET', KEYS[2], ARGV[2])
if not member and (ARGV[4] ~= '1' or redis.call('HEXISTS', KEYS[4], ARGV[2]) == 1) then return {'DEAD'} end
local lapses, state = 0, 'joining'
if member then
  lapses, state = string.match(member, '^(%d+) (%a+)')
  lapses = tonumber(lapses)
end
local head = tonumber(redis.call('HGET', KEYS[1], 'rn') or '0')
if not loaded or lapses < now then state = 'joining' end
if loaded and applied >= head then state = 'live' end
local behind = false
if state == 'live' and applied < head then
  local next = redis.call('XRANGE', KEYS[3], (applied + 1) .. '-0', '+', 'COUNT', 1)[1]
  behind = not next or now - tonumber(next[2][4]) > stale
end
if not behind then lapses = now + lease end
redis.call('HSET', KEYS[2], ARGV[2], string.format('%.0f %s %.0f %s', lapses, state, applied, ARGV[8]))
return {behind and 'BEHIND' or 'OK', state, now, head, redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[4])}
