-- include guard
-- What has changed among the retained messages of a partition after a version.
-- KEYS mark, ret, log   ARGV run, server, node, version, most
-- Answers OK, the version that the changes lead to, 1 if they are all there is (else 0), and topic and value in turn,
-- value '' for a removed one. A change after the version answered may be among them.
-- The log must have the entry of the version asked for. If not, it was trimmed, or Redis has forgotten that change.
local version = redis.call('HGET', KEYS[1], 'ver')
if version == ARGV[4] then return {'OK', version, 0, {}} end
if #redis.call('XRANGE', KEYS[3], ARGV[4] .. '-0', ARGV[4] .. '-0') == 0 then
  return {'OK', version, 1, redis.call('HGETALL', KEYS[2])}
end
local entries = redis.call('XRANGE', KEYS[3], '(' .. ARGV[4] .. '-0', '+', 'COUNT', ARGV[5])
if #entries == tonumber(ARGV[5]) then version = string.match(entries[#entries][1], '^%d+') end
local changes, told = {}, {}
for _, entry in ipairs(entries) do
  local topic = entry[2][2]
  if not told[topic] then
    told[topic] = true
    changes[#changes + 1] = topic
    changes[#changes + 1] = redis.call('HGET', KEYS[2], topic) or ''
  end
end
return {'OK', version, 0, changes}
