-- include guard
-- include journal
-- include exchange
-- include record
-- include session
-- All that one node asks of one partition of the sessions, in the order it was asked, at one stroke.
-- KEYS  1 mark  2 own (client id → node, while connected)  3 idx (client ids of lasting sessions)
--       4 due (wills and orphans by time)  5 wills (will or orphan → record, "t"will → who took it,
--       "c"will → who of the groups was chosen, "g"client id → epoch of a connection that was ended with grace)  6 exp (client ids by the time they expire)
--       7 un (client ids with subscriptions that the other nodes may not know)
--       then six per session: s (hash)  q (stream)  r (set: sequences with PUBREC)
--       i (hash: packet id → exchange number, and "|" and who of the groups was chosen, if anybody was)  d (hash, exchange.lua)  sub (hash: filter → record)
-- ARGV  run, server, node, batch, how many messages a queue holds, whether to drop the oldest, now, number of messages,
--       the messages, then the operations: a letter, the number of its arguments, and these
-- Answers OK, what each operation answers, and what was read for it. The former is kept in the journal. Reading is
-- repeated when a batch is, if its session has not been taken over since. An operation that meets damaged data answers
-- ERR and reads the text; the others go on.
-- A will is named EPOCH:CLIENTID. Fields of s: epoch, owner ('' offline), gen, seq (last sequence), sg, sent, x (last
-- exchange number), lasting ('s' for one that is so only by its shared subscriptions), sh (it has had messages
-- through them), expiry (seconds), exp (when; '' never), will, delay, soon (nothing in its queue expires before that).

-- The operations. Each takes its arguments, whether it is done or, in a repeated batch, was done before.

local operations = {}
local changed = false

-- enqueue: session, gen, head, message (its number), who ('' not numbered), x, low. Answers sequence, owner, epoch
function operations.q(again)
  local session, gen, head, message, who, x, low = take_session(), take(), take(), take(), take(), take(), take()
  local answer = again or enqueue(session, gen, head, message, who ~= '' and who or nil, x, low, false)
  changed = true
  return answer
end

-- enqueue several: session, gen, head, messages (a list of their numbers). Answers the first sequence, or what enqueue
-- answers instead, for how many there was room, owner, epoch
function operations.m(again)
  local session, gen, head, messages = take_session(), take(), take(), take_list()
  changed = true
  if again then return again end
  local answer, count = {'0', '', '0'}, 0
  for _, message in ipairs(messages) do
    local one = enqueue(session, gen, head, message, nil, '', '', false)
    if count == 0 then answer = one end
    if tonumber(one[1]) < 1 then break end
    count = count + 1
  end
  return {answer[1], count, answer[2], answer[3]}
end

-- enqueue, full or not: as above
function operations.f(again)
  local session, gen, head, message, who, x, low = take_session(), take(), take(), take(), take(), take(), take()
  local answer = again or enqueue(session, gen, head, message, who ~= '' and who or nil, x, low, true)
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

-- guard: session, epoch. Answers whether no newer connection has come
function operations.g()
  local session, epoch = take_session(), take()
  return tonumber(session.epoch) <= tonumber(epoch) and 1 or 0
end

-- begin an exchange: session, epoch, packet id, who of the groups is chosen, whether it is somebody else now. Answers x,
-- low, gen, whether it was known, and who was chosen then; x = 0 for a session that records none, {} if stale
function operations.b(again)
  local session, owned = take_owned()
  local packet_id, choices, anew = take(), take(), take() == '1'
  changed = true
  if again then return again end
  if not owned then return {} end
  if not session.lasting then return {'0', '0', session.gen, 0, ''} end
  local open = open_exchanges(session)
  local known = open[packet_id] and 1 or 0
  if known == 0 then
    if anew then return {} end
    renumber(session)
    session.x = digits(tonumber(session.x) + 1)
    open[packet_id] = session.x
  end
  if known == 0 or anew then write_exchange(session, packet_id, choices) end
  local low = tonumber(open[packet_id])
  for _, x in pairs(open) do low = math.min(low, tonumber(x)) end
  return {open[packet_id], digits(low), session.gen, known, session.choices[packet_id]}
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

-- subscribe: session, client id, epoch, what sequences begin behind if this makes the session last ('': it does not),
-- filters to remove, filters and records to add in turn
function operations.s(again)
  local session, cid = take_session(), take()
  local owned, first = take() == session.epoch and session.owner ~= '', take()
  local remove, add = take_list(), take_list()
  changed = true
  if again then return again end
  if not owned then return 0 end
  if first ~= '' and not session.lasting then
    session.lasting, session.dirty, session.seq = true, true, first
    redis.call('HSET', session.s, 'lasting', 's')
    redis.call('SADD', KEYS[3], cid)
  end
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

-- open: session, client id, clean, expiry, will record, delay, now, limit. Reads sub, r, i and queue
function operations.o(again)
  local session, cid, clean, expiry, will, delay, now, limit =
    take_session(), take(), take(), take(), take(), take(), take(), take()
  changed = true
  local answer = again or connect(session, cid, clean, expiry, will, delay, now)
  if session.epoch ~= answer[1] or answer[3] == 0 then return answer, {} end
  return answer, {
    redis.call('HGETALL', session.sub), redis.call('SMEMBERS', session.r), redis.call('HKEYS', session.i),
    read_queue(session, '0', limit),
  }
end

-- close: session, client id, epoch, publish will, sent, now, expiry ('': as it is), grace
function operations.c(again)
  local session, cid, epoch, publish_will, sent, now, expiry, grace =
    take_session(), take(), take(), take(), take(), take(), take(), take()
  changed = true
  if again then return again end
  if epoch ~= session.epoch or session.owner == '' then
    -- Another node was faster; its client had said goodbye all the same [MQTT-3.14.4-3].
    local name = epoch .. ':' .. cid
    if publish_will == '0' and redis.call('HEXISTS', KEYS[5], 't' .. name) == 0 then drop_will(name) end
    return 'STALE'
  end
  local before = redis.call('HGET', session.s, 'expiry')
  -- A session without expiry cannot get one at its end [MQTT-3.14.2-2].
  if expiry == '' or before == '0' then expiry = before end
  sent = math.min(math.max(tonumber(sent), tonumber(session.sent)), tonumber(session.seq))
  now, expiry, grace = tonumber(now), tonumber(expiry), tonumber(grace)
  return disconnect(session, cid, publish_will == '1', digits(sent), now, expiry, grace)
end

-- reap: session, client id, dead node, now
function operations.d(again)
  local session, cid, node, now = take_session(), take(), take(), take()
  changed = true
  if again then return again end
  if session.owner ~= node then return 'STALE' end
  local v = redis.call('HMGET', session.s, 'expiry', 'lasting')
  local expiry = tonumber(v[1])
  -- Other nodes know of one that was resumed without expiry. It is as good as over, and `due` tells them.
  if expiry == 0 and v[2] == '1' then expiry = 0.001 end
  return disconnect(session, cid, true, session.seq, tonumber(now), expiry, 0)
end

-- read: session, epoch, after, limit
function operations.e()
  local session, owned = take_owned()
  local after, limit = take(), take()
  return 0, owned and read_queue(session, after, limit) or {}
end

-- unannounced: session. Reads gen, sub and epoch if it is offline
function operations.u()
  local session = take_session()
  if not session.there or session.owner ~= '' then return 0, {} end
  return 0, {session.gen, redis.call('HGETALL', session.sub), session.epoch}
end

-- expire: session, client id, now. Answers the generation of the session that has ended, or 0
function operations.x(again)
  local session, cid, now = take_session(), take(), take()
  changed = true
  if again then return again end
  local exp = redis.call('HGET', session.s, 'exp')
  if not session.there or session.owner ~= '' or exp == '' or tonumber(exp) > tonumber(now) then return '0' end
  if redis.call('HGET', KEYS[5], 'g' .. cid) ~= session.epoch then
    redis.call('ZADD', KEYS[4], 'XX', 'LT', now, session.epoch .. ':' .. cid)
  end
  local gen = session.gen
  end_session(session, cid, now)
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

-- is a will or an orphan waiting to be published: its name, who of the groups is chosen ('' nobody), whether it is
-- somebody else now. Answers whether it is, and who was chosen before
function operations.w(again)
  local will, choices, anew = take(), take(), take() == '1'
  changed = changed or choices ~= ''
  if again then return again end
  if redis.call('HEXISTS', KEYS[5], will) == 0 then return {0, ''} end
  local before = redis.call('HGET', KEYS[5], 'c' .. will)
  if choices ~= '' and (anew or not before) then redis.call('HSET', KEYS[5], 'c' .. will, choices) end
  return {1, before or ''}
end

-- a will or an orphan has been published: its name
function operations.v(again)
  local will = take()
  changed = true
  if again then return again end
  drop_will(will)
  local epoch, cid = string.match(will, '^(%d+):(.*)$')
  if cid and redis.call('HGET', KEYS[5], 'g' .. cid) == epoch then redis.call('HDEL', KEYS[5], 'g' .. cid) end
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

local reads = {}
local number = 0
while position <= #ARGV do
  number = number + 1
  local operation = operations[take()]
  local next_one = position + 1 + tonumber(take())
  local fine, answer, read = pcall(operation, repeated and answers[number])
  if not fine then
    local text = type(answer) == 'table' and answer.err or tostring(answer)
    -- Redis takes no writes now: nothing has been written, and all is asked again later.
    for _, code in ipairs({'READONLY', 'OOM', 'MISCONF', 'NOREPLICAS'}) do
      if string.find(text, code, 1, true) then return redis.error_reply(text) end
    end
    answer, read = 'ERR', text
  end
  position = next_one
  answers[number] = answer
  reads[number] = read or 0
end

for _, session in pairs(sessions) do
  if session.dirty then redis.call('HSET', session.s, 'seq', session.seq, 'sg', session.sg, 'x', session.x) end
end
if changed and not repeated then remember() end
return {'OK', answers, reads}
