-- What the operations of partition.lua share: reading arguments, and sessions that begin, receive and end.
local NEVER = 4294967295
-- Bytes of messages in one answer, as in interfaces.py, and entries that are looked at before they are counted again.
local READ_BYTES, READ_STEP = 1048576, 16
local most, drop_oldest = tonumber(ARGV[5]), ARGV[6] == '1'
local current = tonumber(ARGV[7])
local position = 9 + tonumber(ARGV[8])

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
  local v = redis.call('HMGET', KEYS[base + 1], 'epoch', 'owner', 'gen', 'seq', 'sg', 'sent', 'x', 'lasting', 'sh',
    'soon')
  local session = {
    s = KEYS[base + 1], q = KEYS[base + 2], r = KEYS[base + 3], i = KEYS[base + 4], d = KEYS[base + 5],
    sub = KEYS[base + 6], there = v[1] ~= false, epoch = v[1] or '0', owner = v[2] or '', gen = v[3], seq = v[4] or '0',
    sg = v[5], sent = v[6] or '0', x = v[7] or '0', lasting = v[8] == '1' or v[8] == 's', sh = v[9] == '1',
    soon = tonumber(v[10]) or math.huge,
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

-- What came through a shared subscription and was not acknowledged is for somebody else of that group, but not what was
-- sent at QoS 2. It is due like a will, under the name oGEN-SEQUENCE-LOWEST:CLIENTID.
local function orphan(session, cid, now)
  local sent, after, low = tonumber(session.sent), '0', nil
  repeat
    local entries = redis.call('XRANGE', session.q, '(' .. after .. '-0', '+', 'COUNT', 200)
    for _, entry in ipairs(entries) do
      after = string.match(entry[1], '^%d+')
      local head = entry[2][1]
      if string.byte(head) % 16 >= 8 and (string.byte(head) % 4 == 1 or tonumber(after) > sent) then
        low = low or after
        local name = 'o' .. session.gen .. '-' .. after .. '-' .. low .. ':' .. cid
        redis.call('HSET', KEYS[5], name, struct.pack('>H', #head) .. head .. entry[2][2])
        redis.call('ZADD', KEYS[4], now, name)
      end
    end
  until #entries < 200
end

local function end_session(session, cid, now)
  if session.sh then
    orphan(session, cid, now)
    -- What is published again must find out for a while who had it.
    redis.call('EXPIRE', session.d, 3600)
  else
    redis.call('DEL', session.d)
  end
  redis.call('DEL', session.s, session.q, session.r, session.i, session.sub)
  redis.call('SREM', KEYS[3], cid)
  redis.call('ZREM', KEYS[6], cid)
  redis.call('SREM', KEYS[7], cid)
  session.there, session.dirty, session.lasting, session.owner, session.gen = false, false, false, '', false
  session.sh, session.soon = false, math.huge
  session.epoch, session.seq, session.x, session.sent, session.length, session.open = '0', '0', '0', '0', nil, nil
end

local function leave_will(session, cid, at)
  local will = redis.call('HGET', session.s, 'will')
  if not will or will == '' then return false end
  local name = session.epoch .. ':' .. cid
  redis.call('HSET', KEYS[5], name, will)
  redis.call('ZADD', KEYS[4], at, name)
  return true
end

local function drop_will(name)
  redis.call('ZREM', KEYS[4], name)
  redis.call('HDEL', KEYS[5], name, 't' .. name, 'c' .. name)
end

-- Whether a will waits, and nobody is publishing it yet.
local function waits(name, now)
  local at = redis.call('ZSCORE', KEYS[4], name)
  return at and tonumber(at) > tonumber(now) and redis.call('HEXISTS', KEYS[5], 't' .. name) == 0
end

-- The connection has ended.
local function disconnect(session, cid, publish_will, sent, now, expiry, grace)
  if publish_will then
    local delay = math.min(tonumber(redis.call('HGET', session.s, 'delay')), expiry)
    local left = leave_will(session, cid, string.format('%.17g', now + math.max(delay, grace)))
    if left and grace > 0 then redis.call('HSET', KEYS[5], 'g' .. cid, session.epoch) end
  end
  redis.call('HDEL', KEYS[2], cid)
  if expiry == 0 then
    session.sent = sent
    end_session(session, cid, now)
    return 'ENDED'
  end
  local exp = expiry < NEVER and string.format('%.17g', now + expiry) or ''
  if exp ~= '' then redis.call('ZADD', KEYS[6], exp, cid) end
  session.owner, session.sent = '', sent
  redis.call('HSET', session.s, 'owner', '', 'sent', sent, 'will', '', 'expiry', digits(expiry), 'exp', exp)
  return 'KEPT'
end

-- The id of the entry that makes room in a full queue: the first that has expired and was not sent, or, if that is the
-- rule, the first that was not sent.
local function dispensable(session)
  local after, oldest, soon = session.sent .. '-0', nil, math.huge
  while session.soon <= current do
    local entries = redis.call('XRANGE', session.q, '(' .. after, '+', 'COUNT', 20)
    for _, entry in ipairs(entries) do
      local at = expiry(entry[2][2], 1)
      if at and at <= current then return entry[1] end
      soon, after, oldest = math.min(soon, at or soon), entry[1], oldest or entry[1]
    end
    if #entries < 20 then
      session.soon = soon
      if soon < math.huge then
        redis.call('HSET', session.s, 'soon', string.format('%.17g', soon))
      else
        redis.call('HDEL', session.s, 'soon')
      end
    end
  end
  if not drop_oldest then return nil end
  local first = oldest or redis.call('XRANGE', session.q, '(' .. after, '+', 'COUNT', 1)[1]
  return type(first) == 'table' and first[1] or first
end

-- A message that it has, or had, answers -2. `force`: whether or not the queue is full.
local function enqueue(session, gen, head, message, who, x, low, force)
  local shared = string.byte(head) % 16 >= 8
  if not session.there or session.gen ~= gen or not session.lasting then
    return {who and shared and known(session.d, who, x) and '-2' or '0', '', '0'}
  end
  local owner, epoch = session.owner, session.owner ~= '' and session.epoch or '0'
  if who and known(session.d, who, x) then return {'-2', owner, epoch} end
  session.length = session.length or redis.call('XLEN', session.q)
  if session.length >= most and not force then
    local dropped = owner == '' and dispensable(session)
    if not dropped then return {'-1', owner, epoch} end
    redis.call('XDEL', session.q, dropped)
    session.length = session.length - 1
  end
  renumber(session)
  session.seq = digits(tonumber(session.seq) + 1)
  session.length = session.length + 1
  local record = ARGV[8 + tonumber(message)]
  redis.call('XADD', session.q, session.seq .. '-0', head, record)
  local at = expiry(record, 1)
  if at and at < session.soon then
    session.soon = at
    redis.call('HSET', session.s, 'soon', string.format('%.17g', at))
  end
  if who then remember_exchange(session.d, who, x, low) end
  if shared and not session.sh then
    session.sh = true
    redis.call('HSET', session.s, 'sh', '1')
  end
  return {session.seq, owner, epoch, session.length}
end

-- A new connection. Answers epoch, gen, present, last, sent, wiped gen, node and epoch taken over, unannounced.
local function connect(session, cid, clean, expiry, will, delay, now)
  local time = redis.call('TIME')
  -- Epochs follow the clock, so that they grow over all partitions; the counter only keeps them from going back.
  local clock = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local epoch = digits(math.max(tonumber(redis.call('HGET', KEYS[1], 'ep') or '0') + 1, clock))
  redis.call('HSET', KEYS[1], 'ep', epoch)
  local sent_away = redis.call('HGET', KEYS[5], 'g' .. cid)
  if sent_away then  -- back from a node that has left: in time, nobody sees the will
    redis.call('HDEL', KEYS[5], 'g' .. cid)
    if waits(sent_away .. ':' .. cid, now) then drop_will(sent_away .. ':' .. cid) end
  end
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
      -- By the clock of another node one without delay may seem to wait.
      if waits(name, now) then
        if over then redis.call('ZADD', KEYS[4], now, name) elseif v[3] ~= '0' then drop_will(name) end
      end
    end
    present = not over
    if over then
      if session.lasting then wiped = session.gen end
      end_session(session, cid, now)
    end
  end
  if not present then
    session.there, session.gen, session.sg, session.lasting = true, epoch, generation, expiry ~= '0'
    redis.call('HSET', session.s, 'gen', epoch, 'seq', '0', 'sg', generation, 'x', '0',
      'lasting', session.lasting and '1' or '0')
    redis.call('PERSIST', session.d)
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

-- The exchange numbers of the inbound QoS 2 messages that are not released; and who of the groups was chosen.
local function open_exchanges(session)
  if not session.open then
    session.open, session.choices = {}, {}
    local fields = redis.call('HGETALL', session.i)
    for i = 1, #fields, 2 do
      local x = string.match(fields[i + 1], '^%d+')
      session.open[fields[i]], session.choices[fields[i]] = x, string.sub(fields[i + 1], #x + 2)
    end
  end
  return session.open
end

local function write_exchange(session, packet_id, choices)
  session.choices[packet_id] = choices
  local x = session.open[packet_id]
  redis.call('HSET', session.i, packet_id, choices == '' and x or x .. '|' .. choices)
end

-- The first entries behind `after`: at most `limit`, and no more when they have READ_BYTES together.
local function read_queue(session, after, limit)
  local found, size, most, from = {}, 0, tonumber(limit), '(' .. after .. '-0'
  while #found < most and size < READ_BYTES do
    local some = redis.call('XRANGE', session.q, from, '+', 'COUNT', math.min(most - #found, READ_STEP))
    if #some == 0 then break end
    for i = 1, #some do
      found[#found + 1] = some[i]
      size = size + #some[i][2][2]
      if size >= READ_BYTES then break end
    end
    from = '(' .. found[#found][1]
  end
  return found
end
