-- Hand a parcel of envelopes to a node's link.
-- KEYS alive in   ARGV number, parcel, bound
if redis.call('EXISTS', KEYS[1]) == 0 then return 'GONE' end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[3]) then return 'FULL' end
redis.call('XADD', KEYS[2], '*', 'n', ARGV[1], 'b', ARGV[2])
return 'OK'
