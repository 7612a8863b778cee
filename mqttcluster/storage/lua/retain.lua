-- include guard
-- include journal
-- include exchange
-- include record
-- Retained messages of one partition of the topics, in the order of the arguments.
-- KEYS mark, ret, log, seen   ARGV run, server, node, batch, then per change: topic, record ('' removes), who, x, low,
-- now ('', or: only if what is there has expired)
-- Answers OK and the new version of each, 0 for one that was not made, or made before (exchange.lua; who = '': not
-- numbered).
-- A value is "version|record". The log names the topics that changed, by version; who lags behind reads on from there.
local function expired(topic, now)
  local value = redis.call('HGET', KEYS[2], topic)
  local at = value and expiry(value, string.find(value, '|', 1, true) + 1)
  return at and at <= now
end

if not repeated then
  for at = 5, #ARGV, 6 do
    local topic, record, who, x, low, now = unpack(ARGV, at, at + 5)
    local version = '0'
    if (now == '' or expired(topic, tonumber(now))) and (who == '' or not known(KEYS[4], who, x)) then
      version = digits(redis.call('HINCRBY', KEYS[1], 'ver', 1))
      if record == '' then
        redis.call('HDEL', KEYS[2], topic)
      else
        redis.call('HSET', KEYS[2], topic, version .. '|' .. record)
      end
      redis.call('XADD', KEYS[3], 'MAXLEN', '~', 20000, version .. '-0', 't', topic)
      if who ~= '' then remember_exchange(KEYS[4], who, x, low) end
    end
    answers[#answers + 1] = version
  end
  remember()
end
return {'OK', answers}
