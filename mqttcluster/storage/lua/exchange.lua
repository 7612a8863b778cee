-- Which numbered messages of a publisher are here already, so that one that is published again changes nothing.
-- A hash: who → "time;low;,x,x,". Below `low`, the publisher's lowest exchange that is still open, all is over: such a
-- message is a repetition, too. Above it the numbers are kept one by one, since they need not come in order.
-- low = '' (wills): there is no lowest one; the latest 16 numbers are kept.
local function seen(key, who)
  local value = redis.call('HGET', key, who)
  if not value then return 0, ',' end
  local low, numbers = string.match(value, '^%d+;(%d+);(.*)$')
  return tonumber(low), numbers
end

local function known(key, who, x)
  local low, numbers = seen(key, who)
  return tonumber(x) < low or string.find(numbers, ',' .. x .. ',', 1, true) ~= nil
end

-- Publishers that ended leave a field behind. From time to time those that nobody used for a week are dropped.
local function forget_old(key, now)
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if tonumber(string.match(fields[i + 1], '^%d+')) < now - 604800 then redis.call('HDEL', key, fields[i]) end
  end
end

local function remember_exchange(key, who, x, low)
  local before, numbers = seen(key, who)
  local now = tonumber(redis.call('TIME')[1])
  local keep, all = {''}, {}
  for number in string.gmatch(numbers, '%d+') do all[#all + 1] = number end
  local lowest = math.max(before, tonumber(low) or 0)
  for i, number in ipairs(all) do
    if low == '' and i > #all - 15 or low ~= '' and tonumber(number) >= lowest then keep[#keep + 1] = number end
  end
  keep[#keep + 1] = x
  keep[#keep + 1] = ''
  local new = redis.call('HSET', key, who, digits(now) .. ';' .. digits(lowest) .. ';' .. table.concat(keep, ','))
  if new == 1 and redis.call('HLEN', key) % 256 == 0 then forget_old(key, now) end
end
