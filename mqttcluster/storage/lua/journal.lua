-- A batch takes effect once.   ARGV[4] = its number, growing with each batch of a node
-- It may be sent again because its answer was lost, and an old connection may still bring one that was answered long
-- ago. So the number of a node's last batch is kept with its answers: that one is answered as before, older ones not.
local batch, last = tonumber(ARGV[4]), tonumber(mark[4] or '0')
if batch < last then return {'OLD'} end
local repeated = batch == last
local answers = {}
if repeated then answers = cmsgpack.unpack(redis.call('HGET', KEYS[1], 'a:' .. ARGV[3])) end

local function remember()
  redis.call('HSET', KEYS[1], 'b:' .. ARGV[3], ARGV[4], 'a:' .. ARGV[3], cmsgpack.pack(answers))
end
