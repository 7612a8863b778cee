-- When a message expires, from its record (records.py) in `text`, which begins at `at`; nil for never.
local function expiry(text, at)
  local _, flags, topic, publisher, body = struct.unpack('>BBHH', text, at)
  if flags % 16 >= 8 then return (struct.unpack('>d', text, body + topic + publisher)) end
end
