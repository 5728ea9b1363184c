/**
 * All steps of the Redis store, for Lua 5.1 with the `struct` and `cjson` that Redis and Valkey build in. The arithmetic is that
 * of rate.ts and memory-store.ts, number by number: change both.
 *
 * KEYS: the leases, what this process holds, and one for each item. ARGV: the step, and its words as one JSON array:
 * `[time, leaseMs, ...]`, where a time of `false` is that of Redis; tests tell another. The keys of what processes hold that are
 * found dead are not in KEYS, but in the same slot.
 *
 * What a limit or a budget stands at is one string of doubles, exact and several times faster than fields of text. What a running
 * call has is one field `id|key` of its process's hash. Only who finds it may give it back, so that every end may be repeated.
 *
 * Each function that a step makes costs it time: those that few steps need are made where they are needed.
 */
export const script = `
local call, min, max = redis.call, math.min, math.max
local pack, unpacked = struct.pack, struct.unpack
local inf, slack, hour, day = math.huge, 1e-9, 3600000, 86400000
local step, words = ARGV[1], cjson.decode(ARGV[2])
local leases, held = KEYS[1], KEYS[2]
local now, lease, stamp = words[1], words[2], nil
if not now then
  stamp = call('TIME')
  now = stamp[1] * 1000 + stamp[2] / 1000
end

-- Of a limit: two buckets of its own, which begin behind R and T, two that the provider has told behind RT and TT, and what
-- follows them. What was not told has no limit.
local R, T, RT, TT = 0, 2, 4, 11
local level, at, limit, window, full, perhaps, untilAt = 1, 2, 3, 4, 5, 6, 7
local running, runningTokens, ceiling, good, peak = 19, 20, 21, 22, 23
local loweredAt, pausedUntil, savedAt, expiresAt, size = 24, 25, 26, 27, 27
local times = { R + at, T + at, RT + at, RT + full, RT + untilAt, TT + at, TT + full, TT + untilAt, loweredAt, pausedUntil, expiresAt }
local layout, budgetLayout, recordLayout = '<' .. string.rep('d', size), '<ddd', '<Bdd'

-- Whether the clock was set back: all its times are, then, as far as is known.
local function load(key)
  local found = call('GET', key)
  if not found then
    return { inf, now, inf, now, inf, now, inf, 0, 0, 0, 0, inf, now, inf, 0, 0, 0, 0, 0, 0, inf, inf, 0, 0, 0, now, 0 }, false
  end
  local rate = { unpacked(layout, found) }
  local back = rate[savedAt] - now
  if back <= 0 then return rate, false end
  for _, i in ipairs(times) do
    if rate[i] > 0 then rate[i] = max(0, rate[i] - back) end
  end
  return rate, true
end

-- The terms stand in words from i on: concurrency, requests, tokens, window, adaptive.
local function save(key, rate, terms, i)
  local ms = max(rate[running] > 0 and day or hour, rate[pausedUntil] - now, rate[RT + full] - now, rate[TT + full] - now)
  local function wait(b, itsLimit, itsWindow)
    local missing = itsLimit - rate[b + level]
    if missing > 0 and missing < inf then ms = max(ms, missing / (itsLimit / itsWindow)) end
  end
  wait(R, terms[i + 1], terms[i + 3])
  wait(T, terms[i + 2], terms[i + 3])
  for b = RT, TT, TT - RT do
    if rate[b + limit] < inf then wait(b, rate[b + limit], rate[b + window] > 0 and rate[b + window] or terms[i + 3]) end
  end
  ms = min(ms, 31 * day) + lease
  rate[savedAt] = now
  -- To set the time of an expiry costs more than the rest.
  local left = rate[expiresAt] - now
  if left >= ms and left <= ms + 0.5 * hour then
    call('SET', key, pack(layout, unpack(rate, 1, size)), 'KEEPTTL')
  else
    ms = math.ceil(ms + 0.25 * hour)
    rate[expiresAt] = now + ms
    call('SET', key, pack(layout, unpack(rate, 1, size)), 'PX', ms)
  end
end

local function refill(rate, b, itsLimit, itsWindow)
  if itsLimit == inf then
    rate[b + level] = inf
    return
  end
  local from = rate[b + at]
  if now > from then
    rate[b + level] = rate[b + level] + (now - from) * (itsLimit / itsWindow)
    rate[b + at] = now
  end
  if rate[b + level] > itsLimit then rate[b + level] = itsLimit end
end

local function refillTold(rate, b, ownWindow)
  if rate[b + full] == 0 then
    refill(rate, b, rate[b + limit], rate[b + window] > 0 and rate[b + window] or ownWindow)
  elseif now >= rate[b + full] then
    rate[b + level], rate[b + full], rate[b + at] = rate[b + limit], 0, now
  end
end

local function refillBoth(rate, terms, i)
  refill(rate, R, terms[i + 1], terms[i + 3])
  refill(rate, T, terms[i + 2], terms[i + 3])
  if rate[RT + limit] < inf then refillTold(rate, RT, terms[i + 3]) end
  if rate[TT + limit] < inf then refillTold(rate, TT, terms[i + 3]) end
end

local function ceilingOf(rate)
  local lift = (now - rate[loweredAt]) / 60000
  if rate[ceiling] == inf or lift <= 1 then return rate[ceiling] end
  return rate[ceiling] * lift * lift
end

-- Of a window that is over nothing counts any more.
local function endBudget(key, of, amount, used)
  local found = call('GET', key)
  if not found then return end
  local current, spent, reserved = unpacked(budgetLayout, found)
  -- Less where the clock was set back meanwhile.
  if current <= of then call('SET', key, pack(budgetLayout, current, spent + used, max(0, reserved - amount)), 'KEEPTTL') end
end

if step == 'end' then
  for i = 1, #KEYS - 2 do
    local key, item = KEYS[i + 2], words[i + 2]
    local field = item[2] .. '|' .. key
    if item[1] == 'b' then
      local has = call('HGET', held, field)
      if has then
        local _, of, amount = unpacked(recordLayout, has)
        call('HDEL', held, field)
        endBudget(key, of, amount, item[3])
      end
    else
      local place, tokens = item[3] == 1, item[4]
      -- What is taken without a trace is ended as often as it is told.
      if not place and tokens == 0 or call('HDEL', held, field) == 1 then
        local grantedAt, usedTokens, usedRequests, outcome = item[5], item[6], item[7], item[8]
        local concurrency, adaptive = item[9], item[13] == 1
        local rate = load(key)
        refillBoth(rate, item, 9)
        local before = rate[running]
        if place then
          rate[running] = max(0, before - 1)
          rate[runningTokens] = max(0, rate[runningTokens] - tokens)
        end
        local function give(b, itsLimit, amount)
          local before = rate[b + level]
          rate[b + level] = min(itsLimit, max(before + amount, min(before, -itsLimit)))
        end
        give(R, item[10], 1 - usedRequests)
        give(T, item[11], tokens - usedTokens)
        if rate[RT + limit] < inf then give(RT, rate[RT + limit], 1 - usedRequests) end
        if rate[TT + limit] < inf then give(TT, rate[TT + limit], tokens - usedTokens) end
        if adaptive then
          local most = rate[peak]
          rate[peak] = before >= most and before or most - (most - before) * 0.01
          local borne = ceilingOf(rate)
          if outcome == 'refused' and grantedAt >= rate[loweredAt] then
            borne = min(concurrency, borne)
            local from = rate[peak] >= 2 and min(borne, rate[peak]) or borne
            rate[ceiling], rate[good], rate[loweredAt] = max(1, (from == inf and 1 or from) * 0.9), borne * 0.9, now
          elseif outcome == 'ok' then
            for b = RT, TT, TT - RT do
              if rate[b + limit] < inf and now >= rate[b + untilAt] then
                rate[b + level], rate[b + limit], rate[b + window], rate[b + full], rate[b + perhaps] = inf, inf, 0, 0, 0
              end
            end
            if borne < inf and grantedAt >= rate[loweredAt] and before >= borne / 2 then
              rate[ceiling] = min(concurrency, rate[ceiling] + (borne < rate[good] and 1 or 1 / borne))
            end
          end
        end
        save(key, rate, item, 9)
      end
    end
  end
  return '1'
end

-- What dead processes held: places come back, and what they reserved of a budget counts as spent, for it may be.
local function giveBack(dead)
  local theirs = string.sub(leases, 1, -7) .. 'held:' .. dead
  local fields = call('HRANDFIELD', theirs, '1000', 'WITHVALUES')
  for i = 1, #fields, 2 do
    local key = string.sub(fields[i], string.find(fields[i], '|', 1, true) + 1)
    local kind, one, other = unpacked(recordLayout, fields[i + 1])
    if kind == 2 then endBudget(key, one, other, other)
    elseif one == 1 then
      local found = call('GET', key)
      if found then
        local rate = { unpacked(layout, found) }
        rate[running], rate[runningTokens] = max(0, rate[running] - 1), max(0, rate[runningTokens] - other)
        call('SET', key, pack(layout, unpack(rate, 1, size)), 'KEEPTTL')
      end
    end
    call('HDEL', theirs, fields[i])
  end
  if call('EXISTS', theirs) == 0 then call('ZREM', leases, dead) end
end

local function process() return string.match(held, '[^:]+$') end

if step ~= 'learn' then
  local earliest = call('ZRANGE', leases, '0', '0', 'WITHSCORES')
  if earliest[2] and tonumber(earliest[2]) <= now then
    for _, dead in ipairs(call('ZRANGEBYSCORE', leases, '-inf', string.format('%.17g', now), 'LIMIT', '0', '10')) do
      if dead ~= process() then giveBack(dead) end
    end
  end
end

-- By how long the hash will last: one that lost its lease is new, and has no time yet.
local function renew(always)
  if not always and call('PTTL', held) > day + lease * 2 / 3 then return end
  call('ZADD', leases, math.ceil(now + lease), process())
  call('PEXPIRE', leases, day + lease)
  call('PEXPIRE', held, day + lease)
end

if step == 'take' then
  local id = words[3]
  local states, setBacks = {}, false
  local index, why, wait, remains = -1, '', -1, 0
  local function deny(i, reason, ms, left)
    if index >= 0 and ms <= wait then return end
    index, why, wait, remains = i - 1, reason, ms, left or 0
  end
  local function refillMs(rate, b, itsLimit, itsWindow, needed)
    local enough = min(needed, itsLimit)
    if rate[b + level] >= enough - slack then return 0 end
    return max(rate[b + at] - now, 0) + (enough - rate[b + level]) / (itsLimit / itsWindow)
  end
  -- Of refilled buckets.
  local function waitOf(rate, b, told, own, ownWindow, needed, others)
    local ms = refillMs(rate, b, own, ownWindow, needed)
    if rate[told + limit] == inf or now >= rate[told + untilAt] and others <= 0 then return ms end
    local toldMs = refillMs(rate, told, rate[told + limit], rate[told + window] > 0 and rate[told + window] or ownWindow, needed)
    if toldMs > 0 and rate[told + full] > 0 then toldMs = rate[told + full] - now end
    if now < rate[told + untilAt] then toldMs = min(toldMs, rate[told + untilAt] - now) end
    return max(ms, toldMs)
  end
  for i = 1, #KEYS - 2 do
    local key, ask = KEYS[i + 2], words[i + 3]
    if ask[1] == 'r' then
      local place, tokens = ask[2] == 1, ask[3]
      local rate, setBack = load(key)
      states[i] = rate
      if setBack then setBacks = true end
      refillBoth(rate, ask, 4)
      if rate[pausedUntil] > now then deny(i, 'paused', rate[pausedUntil] - now) end
      if place and rate[running] + 1 > min(ask[4], max(1, math.floor(ceilingOf(rate)))) then deny(i, 'concurrency', -1) end
      local others = rate[running] - (place and 0 or 1)
      local ms = waitOf(rate, R, RT, ask[5], ask[7], 1, others)
      if ms > 0 then deny(i, 'requests', ms) end
      if place or tokens ~= 0 then
        ms = waitOf(rate, T, TT, ask[6], ask[7], tokens, others)
        if ms > 0 then deny(i, 'tokens', ms) end
      end
    else
      local most, ownWindow, amount = ask[2] * (1 + slack), ask[3], ask[4]
      local found = call('GET', key)
      local current, spent, reserved = math.floor(now / ownWindow), 0, 0
      if found then
        local known, itsSpent, itsReserved = unpacked(budgetLayout, found)
        if known >= current then spent, reserved = itsSpent, itsReserved end
        -- The clock was set back over the edge, a little: it will come to this window again.
        if known == current + 1 then current = known end
      end
      states[i] = { current, spent, reserved }
      if spent + amount > most then deny(i, 'budget', (current + 1) * ownWindow - now, ask[2] - spent)
      elseif spent + reserved + amount > most then deny(i, 'budget', -1, ask[2] - spent - reserved) end
    end
  end
  if index >= 0 then
    -- A denial writes nothing, but where the clock was set back: refilled from now on.
    if setBacks then
      for i = 1, #states do
        if words[i + 3][1] == 'r' then save(KEYS[i + 2], states[i], words[i + 3], 4) end
      end
    end
    return { '0', tostring(index), why, string.format('%.17g', wait), string.format('%.17g', max(0, remains)) }
  end
  local records = { 'HSET', held }
  for i = 1, #states do
    local key, ask, state, record = KEYS[i + 2], words[i + 3], states[i], nil
    if ask[1] == 'r' then
      local place, tokens = ask[2], ask[3]
      state[R + level] = state[R + level] - 1
      state[T + level] = state[T + level] - tokens
      state[RT + level] = max(state[RT + level] - 1, min(state[RT + level], -state[RT + limit]))
      state[TT + level] = max(state[TT + level] - tokens, min(state[TT + level], -state[TT + limit]))
      if place == 1 then
        state[running] = state[running] + 1
        state[runningTokens] = state[runningTokens] + tokens
      end
      save(key, state, ask, 4)
      if place == 1 or tokens ~= 0 then record = pack(recordLayout, 1, place, tokens) end
    else
      local current, amount = state[1], ask[4]
      local ms = math.ceil(min((current + 1) * ask[3] - now + hour, 31 * day))
      call('SET', key, pack(budgetLayout, current, state[2], state[3] + amount), 'PX', ms)
      record = pack(recordLayout, 2, current, amount)
    end
    if record then
      local last = #records
      records[last + 1], records[last + 2] = id .. '|' .. key, record
    end
  end
  if #records > 2 then
    call(unpack(records))
    renew()
  end
  if stamp then return { '1', stamp[1], stamp[2] } end
  return { '1', string.format('%.17g', now) }
end

if step == 'learn' then
  local terms, even, pause = words[3], words[4], words[5]
  local rate = load(KEYS[3])
  refillBoth(rate, terms, 1)
  for i = 1, 2 do
    local b, counter = i == 1 and RT or TT, words[5 + i]
    if counter then
      local itsLimit, remaining, reset = counter[1], counter[2], counter[3]
      if itsLimit and itsLimit <= 0 then itsLimit = false end
      if rate[b + limit] == inf then
        local first = itsLimit or remaining and terms[1 + i] or inf
        if first < inf then rate[b + limit], rate[b + at] = max(1, first), now end
      end
      if rate[b + limit] < inf then
        if itsLimit then rate[b + limit] = max(1, itsLimit) end
        if remaining then
          rate[b + level] = min(max(rate[b + level], remaining - rate[i == 1 and running or runningTokens]), remaining)
        end
        rate[b + at] = max(rate[b + at], now)
        if even then rate[b + full] = 0 end
        if reset and reset > 0 and reset <= 1.3 * day then
          local used = rate[b + limit] - (remaining or inf)
          if not even then rate[b + full] = now + reset
          elseif used >= 1 then
            local period = reset * rate[b + limit] / used
            local isSure = used >= rate[b + limit] * 0.05
            local usual
            for _, each in ipairs({ 1000, 60000, hour, day }) do
              if not usual and math.abs(period / each - 1) <= 0.3 then usual = each end
            end
            if usual and (isSure or rate[b + perhaps] == usual) then rate[b + window] = usual
            elseif not usual and isSure and period <= 1.3 * day then rate[b + window] = period end
            rate[b + perhaps] = usual or 0
          end
        end
        if itsLimit or remaining then
          local itsWindow = rate[b + window] > 0 and rate[b + window] or terms[4]
          rate[b + untilAt] = now + max(600000, 2 * max(itsWindow, rate[b + full] - now))
        end
      end
    end
  end
  if pause and pause > 0 then
    rate[pausedUntil] = max(rate[pausedUntil], now + min(pause, 1.3 * day))
    for i, b in ipairs({ R, RT, T, TT }) do
      local isTold = b == RT or b == TT
      if (i <= 2 or not words[6] and not words[7]) and not (isTold and rate[b + limit] == inf) then
        rate[b + level], rate[b + at] = min(rate[b + level], 0), rate[pausedUntil]
      end
    end
  end
  refillBoth(rate, terms, 1)
  save(KEYS[3], rate, terms, 1)
  return '1'
end

if step == 'state' then
  local terms = words[3]
  local rate = load(KEYS[3])
  refillBoth(rate, terms, 1)
  local told = { rate[running], max(0, min(rate[R + level], rate[RT + level])), max(0, min(rate[T + level], rate[TT + level])), min(terms[1], ceilingOf(rate)), max(0, rate[pausedUntil] - now) }
  for i = 1, 5 do told[i] = string.format('%.17g', told[i]) end
  return told
end

if step == 'renew' then
  for i = 2, #KEYS do
    held = KEYS[i]
    renew(true)
  end
end
if step == 'close' then
  while call('EXISTS', held) == 1 do giveBack(process()) end
  call('ZREM', leases, process())
end
return '1'
`
