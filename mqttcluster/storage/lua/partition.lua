-- include guard
-- include journal
-- include exchange
-- All that one node asks of one partition of the sessions, in the order it was asked, at one stroke.
-- KEYS  1 mark  2 own (client id → node, while connected)  3 idx (client ids of lasting sessions)
--       4 due (wills by time)  5 wills (will → record, "t"will → who took it)  6 exp (client ids by the time they expire)
--       7 un (client ids with subscriptions that the other nodes may not know)
--       then six per session: s (hash)  q (stream)  r (set: sequences with PUBREC)  i (hash: packet id → exchange number)
--       d (hash, exchange.lua)  sub (hash: filter → record)
-- ARGV  run, server, node, batch, how many messages a queue holds, whether to drop the oldest, number of messages,
--       the messages, then the operations: a letter and its arguments
-- Answers OK, what each operation answers, and what was read for it. The former is kept in the journal. Reading is
-- repeated when a batch is, if its session has not been taken over since.
-- A will is named EPOCH:CLIENTID. Fields of s: epoch, owner ('' offline), gen, seq (last sequence), sg, sent, x (last
-- exchange number), lasting, expiry (seconds), exp (when; '' never), will, delay.
local NEVER = 4294967295
local most, drop_oldest = tonumber(ARGV[5]), ARGV[6] == '1'
local position = 8 + tonumber(ARGV[7])
local reads = {}
local changed = false

local function take()
  position = position + 1
  return ARGV[position - 1]
end

local function take_list()
  local count = tonumber(take())
  local list = {}
  for i = 1, count do list[i] = take() end
  return list
end

-- Sessions are read once, and what enqueue and begin have changed is written at the end.

local sessions = {}

local function load_session(number)
  local base = 1 + 6 * tonumber(number)
  local v = redis.call('HMGET', KEYS[base + 1], 'epoch', 'owner', 'gen', 'seq', 'sg', 'sent', 'x', 'lasting')
  local session = {
    s = KEYS[base + 1], q = KEYS[base + 2], r = KEYS[base + 3], i = KEYS[base + 4], d = KEYS[base + 5],
    sub = KEYS[base + 6], there = v[1] ~= false, epoch = v[1] or '0', owner = v[2] or '', gen = v[3], seq = v[4] or '0',
    sg = v[5], sent = v[6] or '0', x = v[7] or '0', lasting = v[8] == '1',
  }
  sessions[number] = session
  return session
end

local function take_session()
  local number = take()
  return sessions[number] or load_session(number)
end

-- The session, and whether the epoch that follows is that of its present connection.
local function take_owned()
  local session = take_session()
  return session, take() == session.epoch and session.owner ~= ''
end

-- About to give out a number: after a change of the Redis process they jump. 655350 is a multiple of 65535, so that
-- packet ids go on where they were.
local function renumber(session)
  session.dirty = true
  if session.sg ~= generation then
    session.sg = generation
    session.seq = digits(tonumber(session.seq) + 655350)
    session.x = digits(tonumber(session.x) + 655350)
  end
end

local function end_session(session, cid)
  redis.call('DEL', session.s, session.q, session.r, session.i, session.d, session.sub)
  redis.call('SREM', KEYS[3], cid)
  redis.call('ZREM', KEYS[6], cid)
  redis.call('SREM', KEYS[7], cid)
  session.there, session.dirty, session.owner, session.gen, session.lasting, session.open = false, false, '', false, false, nil
  session.epoch, session.seq, session.x, session.sent, session.length = '0', '0', '0', '0', nil
end

local function leave_will(session, cid, at)
  local will = redis.call('HGET', session.s, 'will')
  if will and will ~= '' then
    local name = session.epoch .. ':' .. cid
    redis.call('HSET', KEYS[5], name, will)
    redis.call('ZADD', KEYS[4], at, name)
  end
end

-- The connection has ended.
local function disconnect(session, cid, publish_will, sent, now, expiry)
  if publish_will then
    local delay = math.min(tonumber(redis.call('HGET', session.s, 'delay')), expiry)
    leave_will(session, cid, string.format('%.17g', now + delay))
  end
  redis.call('HDEL', KEYS[2], cid)
  if expiry == 0 then
    end_session(session, cid)
    return 'ENDED'
  end
  local exp = expiry < NEVER and string.format('%.17g', now + expiry) or ''
  if exp ~= '' then redis.call('ZADD', KEYS[6], exp, cid) end
  session.owner, session.sent = '', sent
  redis.call('HSET', session.s, 'owner', '', 'sent', sent, 'will', '', 'expiry', digits(expiry), 'exp', exp)
  return 'KEPT'
end

local function enqueue(session, gen, head, message, who, x, low)
  if not session.there or session.gen ~= gen or not session.lasting then return {'0', '', '0'} end
  local owner, epoch = session.owner, session.owner ~= '' and session.epoch or '0'
  if who and known(session.d, who, x) then return {'0', owner, epoch} end
  session.length = session.length or redis.call('XLEN', session.q)
  if session.length >= most then
    local oldest = owner == '' and drop_oldest
      and redis.call('XRANGE', session.q, '(' .. session.sent .. '-0', '+', 'COUNT', 1)[1]
    if not oldest then return {'-1', owner, epoch} end
    redis.call('XDEL', session.q, oldest[1])
    session.length = session.length - 1
  end
  renumber(session)
  session.seq = digits(tonumber(session.seq) + 1)
  session.length = session.length + 1
  redis.call('XADD', session.q, session.seq .. '-0', head, ARGV[7 + tonumber(message)])
  if who then remember_exchange(session.d, who, x, low) end
  return {session.seq, owner, epoch}
end

-- The exchange numbers of the inbound QoS 2 messages that are not released.
local function open_exchanges(session)
  if not session.open then
    session.open = {}
    local fields = redis.call('HGETALL', session.i)
    for i = 1, #fields, 2 do session.open[fields[i]] = fields[i + 1] end
  end
  return session.open
end

local function read_queue(session, after, limit)
  if limit == '0' then return {} end
  return redis.call('XRANGE', session.q, '(' .. after .. '-0', '+', 'COUNT', limit)
end

-- The operations. Each takes its arguments, whether it is done or, in a repeated batch, was done before.

local operations = {}

-- enqueue: session, gen, head, message (its number), who ('' not numbered), x, low. Answers sequence, owner, epoch
function operations.q(again)
  local session, gen, head, message, who, x, low = take_session(), take(), take(), take(), take(), take(), take()
  local answer = again or enqueue(session, gen, head, message, who ~= '' and who or nil, x, low)
  changed = true
  return answer
end

-- acknowledge: session, epoch, done, received, completed (lists of sequences)
function operations.a()
  local session, owned = take_owned()
  local done, received, completed = take_list(), take_list(), take_list()
  if not owned then return 0 end
  for i = 1, #done, 1000 do
    local ids = {}
    for j = i, math.min(#done, i + 999) do ids[#ids + 1] = done[j] .. '-0' end
    redis.call('XDEL', session.q, unpack(ids))
  end
  for _, sequence in ipairs(received) do
    -- What is not queued (any more) was acknowledged before, and must not be waited for again.
    if redis.call('XDEL', session.q, sequence .. '-0') == 1 then redis.call('SADD', session.r, sequence) end
  end
  for _, sequence in ipairs(completed) do redis.call('SREM', session.r, sequence) end
  session.length = nil
  return 1
end

-- begin an exchange: session, epoch, packet id. Answers x, low, gen; x = 0 for a session that records none, {} if stale
function operations.b(again)
  local session, owned = take_owned()
  local packet_id = take()
  changed = true
  if again then return again end
  if not owned then return {} end
  if not session.lasting then return {'0', '0', session.gen} end
  local open = open_exchanges(session)
  if not open[packet_id] then
    renumber(session)
    session.x = digits(tonumber(session.x) + 1)
    open[packet_id] = session.x
    redis.call('HSET', session.i, packet_id, session.x)
  end
  local low = tonumber(open[packet_id])
  for _, x in pairs(open) do low = math.min(low, tonumber(x)) end
  return {open[packet_id], digits(low), session.gen}
end

-- release: session, epoch, packet ids
function operations.r(again)
  local session, owned = take_owned()
  local packet_ids = take_list()
  changed = true
  if again then return again end
  if not owned then return 0 end
  for _, packet_id in ipairs(packet_ids) do
    redis.call('HDEL', session.i, packet_id)
    if session.open then session.open[packet_id] = nil end
  end
  return 1
end

-- subscribe: session, client id, epoch, filters to remove, filters and records to add in turn
function operations.s(again)
  local session, cid = take_session(), take()
  local owned = take() == session.epoch and session.owner ~= ''
  local remove, add = take_list(), take_list()
  changed = true
  if again then return again end
  if not owned then return 0 end
  if session.lasting then
    for _, filter in ipairs(remove) do redis.call('HDEL', session.sub, filter) end
    for i = 1, #add, 2 do redis.call('HSET', session.sub, add[i], add[i + 1]) end
    redis.call('SADD', KEYS[7], cid)
  end
  return 1
end

-- announced: session, client id, epoch
function operations.n(again)
  local session, cid = take_session(), take()
  local owned = take() == session.epoch and session.owner ~= ''
  changed = true
  if again then return again end
  if not owned then return 0 end
  redis.call('SREM', KEYS[7], cid)
  return 1
end

-- open: session, client id, clean, expiry, will record, delay, now, limit
-- Answers epoch, gen, present, last, sent, wiped gen, node and epoch taken over, unannounced; reads sub, r, i and queue.
local function open(session, cid, clean, expiry, will, delay, now)
  local time = redis.call('TIME')
  -- Epochs follow the clock, so that they grow over all partitions; the counter only keeps them from going back.
  local clock = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local epoch = digits(math.max(tonumber(redis.call('HGET', KEYS[1], 'ep') or '0') + 1, clock))
  redis.call('HSET', KEYS[1], 'ep', epoch)
  local present, wiped, node, before = false, '0', session.owner, session.epoch
  if session.there then
    local v = redis.call('HMGET', session.s, 'expiry', 'exp', 'delay')
    local over = clean == '1'
    if node ~= '' then
      over = over or v[1] == '0'
      -- The old will is published, unless the session goes on and the will was to wait [G7].
      if over or v[3] == '0' then leave_will(session, cid, now) end
      session.sent = session.seq  -- the old connection may have sent anything
    else
      over = over or v[2] ~= '' and tonumber(v[2]) <= tonumber(now)
      local name = before .. ':' .. cid
      local at = redis.call('ZSCORE', KEYS[4], name)
      if at and tonumber(at) > tonumber(now) and redis.call('HEXISTS', KEYS[5], 't' .. name) == 0 then
        if over then
          redis.call('ZADD', KEYS[4], now, name)
        else
          redis.call('ZREM', KEYS[4], name)
          redis.call('HDEL', KEYS[5], name)
        end
      end
    end
    present = not over
    if over then
      if session.lasting then wiped = session.gen end
      end_session(session, cid)
    end
  end
  if not present then
    session.there, session.gen, session.sg, session.lasting = true, epoch, generation, expiry ~= '0'
    redis.call('HSET', session.s, 'gen', epoch, 'seq', '0', 'sg', generation, 'x', '0',
      'lasting', session.lasting and '1' or '0')
  end
  session.epoch, session.owner = epoch, ARGV[3]
  redis.call('HSET', session.s, 'epoch', epoch, 'owner', ARGV[3], 'sent', session.sent, 'expiry', expiry, 'exp', '',
    'will', will, 'delay', delay)
  redis.call('HSET', KEYS[2], cid, ARGV[3])
  redis.call('ZREM', KEYS[6], cid)
  if session.lasting then redis.call('SADD', KEYS[3], cid) end
  return {
    epoch, session.gen, present and 1 or 0, session.seq, session.sent, wiped, node, before,
    redis.call('SISMEMBER', KEYS[7], cid),
  }
end

function operations.o(again)
  local session, cid, clean, expiry, will, delay, now, limit =
    take_session(), take(), take(), take(), take(), take(), take(), take()
  changed = true
  local answer = again or open(session, cid, clean, expiry, will, delay, now)
  if session.epoch ~= answer[1] or answer[3] == 0 then return answer, {} end
  return answer, {
    redis.call('HGETALL', session.sub), redis.call('SMEMBERS', session.r), redis.call('HKEYS', session.i),
    read_queue(session, '0', limit),
  }
end

-- close: session, client id, epoch, publish will, sent, now, expiry ('': as it is)
function operations.c(again)
  local session, cid, epoch, publish_will, sent, now, expiry =
    take_session(), take(), take(), take(), take(), take(), take()
  changed = true
  if again then return again end
  if epoch ~= session.epoch or session.owner == '' then return 'STALE' end
  local before = redis.call('HGET', session.s, 'expiry')
  -- A session without expiry cannot get one at its end [MQTT-3.14.2-2].
  if expiry == '' or before == '0' then expiry = before end
  sent = math.min(math.max(tonumber(sent), tonumber(session.sent)), tonumber(session.seq))
  return disconnect(session, cid, publish_will == '1', digits(sent), tonumber(now), tonumber(expiry))
end

-- reap: session, client id, dead node, now
function operations.d(again)
  local session, cid, node, now = take_session(), take(), take(), take()
  changed = true
  if again then return again end
  if session.owner ~= node then return 'STALE' end
  local expiry = tonumber(redis.call('HGET', session.s, 'expiry'))
  return disconnect(session, cid, true, session.seq, tonumber(now), expiry)
end

-- read: session, epoch, after, limit
function operations.e()
  local session, owned = take_owned()
  local after, limit = take(), take()
  return 0, owned and read_queue(session, after, limit) or {}
end

-- unannounced: session. Reads gen and sub if it is offline
function operations.u()
  local session = take_session()
  if not session.there or session.owner ~= '' then return 0, {} end
  return 0, {session.gen, redis.call('HGETALL', session.sub)}
end

-- expire: session, client id, now. Answers the generation of the session that has ended, or 0
function operations.x(again)
  local session, cid, now = take_session(), take(), take()
  changed = true
  if again then return again end
  local exp = redis.call('HGET', session.s, 'exp')
  if not session.there or session.owner ~= '' or exp == '' or tonumber(exp) > tonumber(now) then return '0' end
  redis.call('ZADD', KEYS[4], 'XX', 'LT', now, session.epoch .. ':' .. cid)
  local gen = session.gen
  end_session(session, cid)
  return gen
end

-- take a will: will, now, until. Answers 1 and reads it if it is due and nobody else is at it
function operations.t(again)
  local will, now, lease = take(), take(), take()
  changed = true
  local answer = again
  if not answer then
    local at = redis.call('ZSCORE', KEYS[4], will)
    local taken, by = string.match(redis.call('HGET', KEYS[5], 't' .. will) or '', '^(%S+) (.*)$')
    answer = 0
    if at and tonumber(at) <= tonumber(now) and (not by or by == ARGV[3] or tonumber(taken) <= tonumber(now)) then
      redis.call('HSET', KEYS[5], 't' .. will, lease .. ' ' .. ARGV[3])
      answer = 1
    end
  end
  return answer, answer == 1 and redis.call('HGET', KEYS[5], will) or ''
end

-- is a will waiting to be published: will
function operations.w() return redis.call('HEXISTS', KEYS[5], take()) end

-- a will has been published: will
function operations.v(again)
  local will = take()
  changed = true
  if again then return again end
  redis.call('ZREM', KEYS[4], will)
  redis.call('HDEL', KEYS[5], will, 't' .. will)
  return 1
end

-- bury a node: node, now. Its scripts are refused from now on; a week later its name is forgotten
function operations.k(again)
  local node, now = take(), take()
  changed = true
  if again then return again end
  redis.call('HSETNX', KEYS[1], 'dead:' .. node, now)
  redis.call('HDEL', KEYS[1], 'b:' .. node, 'a:' .. node)
  local fields = redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 5) == 'dead:' and tonumber(fields[i + 1]) < tonumber(now) - 604800 then
      redis.call('HDEL', KEYS[1], fields[i])
    end
  end
  return 1
end

local number = 0
while position <= #ARGV do
  number = number + 1
  local letter = take()
  local answer, read = operations[letter](repeated and answers[number])
  answers[number] = answer
  reads[number] = read or 0
end

for _, session in pairs(sessions) do
  if session.dirty then redis.call('HSET', session.s, 'seq', session.seq, 'sg', session.sg, 'x', session.x) end
end
if changed and not repeated then remember() end
return {'OK', answers, reads}
