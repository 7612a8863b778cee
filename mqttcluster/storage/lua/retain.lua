-- include guard
-- include journal
-- include exchange
-- Retained messages of one partition of the topics, in the order of the arguments.
-- KEYS mark, ret, log, seen   ARGV run, server, node, batch, then per change: topic, record ('' removes), who, x, low
-- Answers OK and the new version of each, 0 for one that was made before (exchange.lua; who = '': not numbered).
-- A value is "version|record". The log names the topics that changed, by version; who lags behind reads on from there.
if not repeated then
  for at = 5, #ARGV, 5 do
    local topic, record, who, x, low = unpack(ARGV, at, at + 4)
    local version = '0'
    if who == '' or not known(KEYS[4], who, x) then
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
