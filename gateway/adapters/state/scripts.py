"""What Redis carries out for the state: Lua scripts, each atomic, each on keys of one hash slot.

Time is Redis's own, in microseconds; ``ARGV[1]`` is empty but in tests, which hand in a time of theirs. Rates are in
units a microsecond. What is kept:

* a bucket, packed (``BUCKET``: text costs Redis twice as much), gone when it is empty and nothing is held: the level
  that it had at a time, that time, until when it is held, its rate; the least that it has held since that time, and
  burst, both as floats, because 4 octets more would cost 16. The time is that of the last taking that found less in
  the bucket than it took, so what is taken afterwards is in the level, but leaves the time as it is (until the level is
  so large that fractions would suffer);
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

BUCKET: Final = "<4d2f"
"""How a bucket is packed, in the words of Python; in those of Lua ``<ddddff``."""

OPERATION: Final = "<2c4d"
"""How an operation of ``ASK`` is packed, in the words of Python; in those of Lua ``<c1c1dddd``."""

ASK: Final = (
    """
-- For each key an argument: 't'ake, 'l'ook, 'a'dd, give 'b'ack or 'e'nter; whether it binds, '1' or '0'; and four
-- numbers
--   t, l, a: rate, burst, cost, hold in microseconds
--   b: rate, burst, cost, the time at which it was taken
--   e: limit, lease in microseconds, 0, 0, and behind them the member
-- Gives for each: whether it is granted, the level in thousandths, and the wait in microseconds; in its place, for what
-- is taken, the time.
"""
    + _NOW
    + """
local call, parse, spread, max, min, ceil = redis.call, struct.unpack, unpack, math.max, math.min, math.ceil
local rows, refused = {}, false
for i = 1, #KEYS do
  local what, binds, rate, burst, cost, hold = parse('<c1c1dddd', ARGV[i + 1])
  local level, wait, held, grants, base, at, low, _ = 0, 0, 0, true, 0, now, 0
  if what == 'e' then
    call('ZREMRANGEBYSCORE', KEYS[i], '(0', now)
    level = call('ZCOUNT', KEYS[i], '(0', '+inf')
    local limit, member = rate, string.sub(ARGV[i + 1], 35)
    grants = level < limit or call('ZSCORE', KEYS[i], member) ~= false
  else
    local kept = call('GET', KEYS[i])
    if kept then
      base, at, held, _, low = parse('<ddddf', kept)
      level = max(0, base - max(0, now - at) * rate)
    end
    if what == 't' or what == 'l' then
      local excess = level + min(cost, burst) - burst
      if excess > 1e-9 or held > now then
        grants = false
        wait = max(excess / rate, held - now)
      end
    end
  end
  if not grants and binds == '1' then refused = true end
  rows[i] = {what, rate, burst, cost, hold, level, wait, held, grants, base, at, low}
end
local answer, n = {}, 0
for i = 1, #KEYS do
  local what, rate, burst, cost, hold, level, wait, held, grants, base, at, low = spread(rows[i])
  local counts = grants and not refused
  if what == 'e' then
    if counts then
      local limit, lease, member = rate, burst, string.sub(ARGV[i + 1], 35)
      call('ZADD', KEYS[i], -limit, '', now + lease, member)
      call('PEXPIRE', KEYS[i], ceil(lease / 1000))
      level = call('ZCARD', KEYS[i]) - 1
    end
  else
    local changed, before = true, level
    low = min(low, level)
    if what == 't' and counts then
      level = level + cost
      if low < cost or base > 1000 * burst then before = 0 end
      wait = now
    elseif what == 'a' then
      level = max(0, min(level + cost, max(level, burst)))
    elseif what == 'b' then
      local back = max(0, cost - max(0, now - hold) * rate)
      if at <= hold then back = max(back, min(cost, low)) end
      level = max(0, level - back)
      low = max(0, low - back)
    else
      changed = not grants and hold > 0 and held <= now
      if changed then
        held = now + hold
        wait = max(wait, hold)
      end
    end
    if changed then
      local life = min(ceil(max(level / rate, held - now) / 1000), 1e15)
      if life > 0 then
        if before > 0 then
          base = base + level - before
        else
          base, at, low = level, now, level
        end
        call('SET', KEYS[i], struct.pack('<ddddff', base, at, held, rate, low, burst), 'PX', life)
      else
        call('DEL', KEYS[i])
      end
    end
  end
  answer[n + 1], answer[n + 2], answer[n + 3] = grants and 1 or 0, math.floor(level * 1000 + 0.5), ceil(wait)
  n = n + 3
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
