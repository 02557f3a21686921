"""What Redis carries out for the state: Lua scripts, each atomic, each on keys of one hash slot.

Time is Redis's own, in microseconds; ``ARGV[1]`` is empty but in tests, which hand in a time of theirs. Rates are in
units a microsecond. What is kept:

* a bucket: ``level at held rate burst`` as text, gone when the bucket is empty and nothing is held;
* a room of connections: a sorted set of sessions, scored by the time until which each is counted, beside ``limit``
  in the score of the member ``''``;
* a triplet: ``first passes last envelope``; a client of the greylist: ``passes last``.

Each script says in its head what it takes and gives.
"""

from typing import Final

_NOW: Final = """
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
"""

WIDTH: Final = 6
"""Arguments of one operation of ``ASK``."""

ASK: Final = (
    """
-- For each key WIDTH arguments: 't'ake, 'l'ook, 'a'dd or 'e'nter; whether it binds; and then
--   t, l, a: rate, burst, cost, hold in microseconds
--   e: limit, member, lease in microseconds, 0
-- Gives for each: whether it is granted, the level in thousandths, the wait in microseconds.
"""
    + _NOW
    + """
local found, refused = {}, false
for i = 1, #KEYS do
  local base = (i - 1) * 6 + 2
  local what, binds = ARGV[base], ARGV[base + 1] == '1'
  local one = {granted = true, wait = 0, level = 0, held = 0}
  if what == 'e' then
    redis.call('ZREMRANGEBYSCORE', KEYS[i], '(0', now)
    one.level = redis.call('ZCOUNT', KEYS[i], '(0', '+inf')
    one.granted = one.level < tonumber(ARGV[base + 2]) or redis.call('ZSCORE', KEYS[i], ARGV[base + 3]) ~= false
  else
    local rate, burst, cost = tonumber(ARGV[base + 2]), tonumber(ARGV[base + 3]), tonumber(ARGV[base + 4])
    local kept = redis.call('GET', KEYS[i])
    if kept then
      local level, at, held = string.match(kept, '^(%S+) (%S+) (%S+)')
      one.level = math.max(0, level - math.max(0, now - at) * rate)
      one.held = tonumber(held)
    end
    if what ~= 'a' then
      local excess = one.level + math.min(cost, burst) - burst
      if excess > 1e-9 or one.held > now then
        one.granted = false
        one.wait = math.max(excess / rate, one.held - now)
      end
    end
  end
  if binds and not one.granted then refused = true end
  found[i] = one
end
local answer = {}
for i = 1, #KEYS do
  local base = (i - 1) * 6 + 2
  local what, one = ARGV[base], found[i]
  local counts = one.granted and not refused
  if what == 'e' then
    if counts then
      local lease = tonumber(ARGV[base + 4])
      redis.call('ZADD', KEYS[i], -tonumber(ARGV[base + 2]), '', now + lease, ARGV[base + 3])
      redis.call('PEXPIRE', KEYS[i], math.ceil(lease / 1000))
      one.level = redis.call('ZCARD', KEYS[i]) - 1
    end
  else
    local rate, burst, cost = tonumber(ARGV[base + 2]), tonumber(ARGV[base + 3]), tonumber(ARGV[base + 4])
    local hold = tonumber(ARGV[base + 5])
    local changed = false
    if what == 'a' then
      one.level = math.max(0, math.min(one.level + cost, math.max(one.level, burst)))
      changed = true
    elseif counts and what == 't' then
      one.level = one.level + cost
      changed = true
    elseif not one.granted and hold > 0 and one.held <= now then
      one.held = now + hold
      one.wait = math.max(one.wait, hold)
      changed = true
    end
    if changed then
      local life = math.ceil(math.max(one.level / rate, one.held - now) / 1000)
      if life > 0 then
        local kept = string.format('%.17g %.17g %.17g %.17g %.17g', one.level, now, one.held, rate, burst)
        redis.call('SET', KEYS[i], kept, 'PX', life)
      else
        redis.call('DEL', KEYS[i])
      end
    end
  end
  answer[#answer + 1] = one.granted and 1 or 0
  answer[#answer + 1] = math.floor(one.level * 1000 + 0.5)
  answer[#answer + 1] = math.ceil(one.wait)
end
return answer
"""
)

RENEW: Final = (
    """
-- Sessions that are still there: limit, lease in microseconds, and each session.
"""
    + _NOW
    + """
local lease = tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(0', now)
redis.call('ZADD', KEYS[1], -tonumber(ARGV[2]), '')
for i = 4, #ARGV do redis.call('ZADD', KEYS[1], now + lease, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], math.ceil(lease / 1000))
return 1
"""
)

LEAVE: Final = """
-- A session that has ended.
redis.call('ZREM', KEYS[1], ARGV[2])
if redis.call('ZCOUNT', KEYS[1], '(0', '+inf') == 0 then redis.call('DEL', KEYS[1]) end
return 1
"""

GREET: Final = (
    """
-- KEYS: the triplet, the client. ARGV: delay, window, keep in microseconds, the passes that wave a client through, and
-- the envelope for people.
-- Gives the status, the wait and what was waited in microseconds, and the client's passes.
"""
    + _NOW
    + """
local delay, window, keep, needed = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local function lifetime(span) return math.ceil(span / 1000) end
local known, passes = redis.call('GET', KEYS[2]), 0
if known then
  local count, last = string.match(known, '^(%S+) (%S+)')
  if now - last <= keep then passes = tonumber(count) end
end
if needed > 0 and passes >= needed then
  redis.call('SET', KEYS[2], string.format('%d %.17g', passes, now), 'PX', lifetime(keep))
  return {'client', 0, 0, passes}
end
local kept = redis.call('GET', KEYS[1])
local first, times
if kept then
  local a, b, last = string.match(kept, '^(%S+) (%S+) (%S+)')
  first, times = tonumber(a), tonumber(b)
  if (times > 0 and now - last > keep) or (times == 0 and now - first > window) then first = nil end
end
if not first then
  redis.call('SET', KEYS[1], string.format('%.17g 0 %.17g %s', now, now, ARGV[6]), 'PX', lifetime(window))
  return {'new', delay, 0, passes}
end
local waited = now - first
if times == 0 and waited < delay then return {'early', delay - waited, waited, passes} end
redis.call('SET', KEYS[1], string.format('%.17g %d %.17g %s', first, times + 1, now, ARGV[6]), 'PX', lifetime(keep))
if times > 0 then return {'known', 0, waited, passes} end
redis.call('SET', KEYS[2], string.format('%d %.17g', passes + 1, now), 'PX', lifetime(keep))
return {'passed', 0, waited, passes + 1}
"""
)

READ: Final = (
    """
-- An entry for people: the time, the milliseconds it has left, and its value.
"""
    + _NOW
    + """
local kind = redis.call('TYPE', KEYS[1]).ok
local value = false
if kind == 'string' then value = redis.call('GET', KEYS[1])
elseif kind == 'zset' then value = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES') end
return {now, redis.call('PTTL', KEYS[1]), value}
"""
)
