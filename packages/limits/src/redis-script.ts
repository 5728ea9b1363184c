/**
 * All steps of the Redis store, for Lua 5.1 without modules. The arithmetic is that of rate.ts and memory-store.ts, number
 * by number: change both.
 *
 * KEYS: the leases, what this process holds, and one for each item. ARGV: step, process, leaseMs, the time ('' for that of
 * Redis; tests tell another), the prefix of all keys, and the fields of the items one after the other. The keys of what
 * processes hold that are found dead are not in KEYS, but in the same slot.
 *
 * What a running call has is one field `id|key` of its process's hash: `r place tokens` or `b window amount`. Only who finds
 * it may give it back, so that every end may be repeated.
 */
export const script = `
local step, process, lease, prefix = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5]
local now = tonumber(ARGV[4])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + time[2] / 1000
end
local leases, held = KEYS[1], KEYS[2]
local inf, slack, hour, day = math.huge, 1e-9, 3600000, 86400000
local maxTold = 1.3 * day
local min, max = math.min, math.max

local at = 5
local function word() at = at + 1 return ARGV[at] end
local function number() return tonumber(word()) end
local function text(value) return string.format('%.17g', value) end
local function expire(key, ms) redis.call('PEXPIRE', key, string.format('%.0f', min(ms, 31 * day))) end

local function nextTerms()
  return { concurrency = number(), requests = number(), tokens = number(), window = number(), adaptive = word() == '1' }
end

local function load(key)
  local found = redis.call('HMGET', key, 'rl', 'ra', 'rm', 'rw', 'rf', 'tl', 'ta', 'tm', 'tw', 'tf', 'n', 'nt', 'c', 'la', 'p')
  local function get(index, default) return found[index] and tonumber(found[index]) or default end
  local paused, setBack = get(15, 0), false
  local function bucket(from)
    local known = { level = get(from, inf), at = get(from + 1, now), limit = get(from + 2, inf), window = get(from + 3, 0), full = get(from + 4, 0) }
    if known.at > now and known.at > paused then
      known.at = now
      setBack = true
    end
    return known
  end
  local r, t = bucket(1), bucket(6)
  return { key = key, r = r, t = t, n = get(11, 0), nt = get(12, 0), c = get(13, inf), la = get(14, 0), p = paused, setBack = setBack }
end

local function capacityOf(bucket, own) return min(own, bucket.limit) end
local function rateOf(bucket, own, window)
  return min(own / window, bucket.limit / (bucket.window > 0 and bucket.window or window))
end

local function save(rate, terms, ...)
  local r, t = rate.r, rate.t
  redis.call('HSET', rate.key, 'rl', text(r.level), 'ra', text(r.at), 'tl', text(t.level), 'ta', text(t.at),
    'n', text(rate.n), 'nt', text(rate.nt), 'rf', text(r.full), 'tf', text(t.full), ...)
  local ms = max(rate.n > 0 and day or hour, rate.p - now, r.full - now, t.full - now)
  for _, one in ipairs({ { r, terms.requests }, { t, terms.tokens } }) do
    local capacity = capacityOf(one[1], one[2])
    if capacity < inf then ms = max(ms, (capacity - one[1].level) / rateOf(one[1], one[2], terms.window)) end
  end
  expire(rate.key, ms + lease)
end

local function refill(bucket, own, window)
  local capacity = capacityOf(bucket, own)
  if capacity == inf then
    bucket.level = capacity
    return
  end
  if bucket.full > 0 then
    if now >= bucket.full then
      bucket.level, bucket.full, bucket.at = capacity, 0, now
    end
  elseif now > bucket.at then
    bucket.level = bucket.level + (now - bucket.at) * rateOf(bucket, own, window)
    bucket.at = now
  end
  if bucket.level > capacity then bucket.level = capacity end
end

local function refillBoth(rate, terms)
  refill(rate.r, terms.requests, terms.window)
  refill(rate.t, terms.tokens, terms.window)
end

local function waitOf(bucket, own, window, needed)
  local enough = min(needed, capacityOf(bucket, own))
  if bucket.level >= enough - slack then return 0 end
  if bucket.full > 0 then return bucket.full - now end
  return max(bucket.at - now, 0) + (enough - bucket.level) / rateOf(bucket, own, window)
end

local function give(bucket, own, amount) bucket.level = min(capacityOf(bucket, own), bucket.level + amount) end

local function loadBudget(key, window)
  local found = redis.call('HMGET', key, 'w', 's', 'r')
  local known = found[1] and tonumber(found[1]) or -1
  local current = math.floor(now / window)
  if current > known then return { key = key, w = current, s = 0, r = 0, window = window } end
  return { key = key, w = known, s = tonumber(found[2]), r = tonumber(found[3]), window = window }
end

local function saveBudget(budget)
  redis.call('HSET', budget.key, 'w', text(budget.w), 's', text(budget.s), 'r', text(budget.r))
end

-- Of a window that is over nothing counts any more.
local function endBudget(key, window, amount, used)
  local found = redis.call('HMGET', key, 'w', 's', 'r')
  if found[1] and tonumber(found[1]) == tonumber(window) then
    redis.call('HSET', key, 's', text(found[2] + used), 'r', text(max(0, found[3] - amount)))
  end
end

-- What dead processes held: places come back, and what they reserved of a budget counts as spent, for it may be.
local function giveBack(dead)
  local theirs = prefix .. 'held:' .. dead
  local fields = redis.call('HRANDFIELD', theirs, '1000', 'WITHVALUES')
  for index = 1, #fields, 2 do
    local key = string.sub(fields[index], string.find(fields[index], '|', 1, true) + 1)
    local kind, one, other = string.match(fields[index + 1], '^(%a) (%S+) (%S+)$')
    if kind == 'r' and one == '1' then
      local found = redis.call('HMGET', key, 'n', 'nt')
      if found[1] then
        redis.call('HSET', key, 'n', text(max(0, found[1] - 1)), 'nt', text(max(0, found[2] - other)))
      end
    elseif kind == 'b' then endBudget(key, one, other, other) end
    redis.call('HDEL', theirs, fields[index])
  end
  if redis.call('EXISTS', theirs) == 0 then redis.call('ZREM', leases, dead) end
end

for _, dead in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', text(now), 'LIMIT', '0', '10')) do
  if dead ~= process then giveBack(dead) end
end

local function renew()
  redis.call('ZADD', leases, text(now + lease), process)
  expire(leases, day + lease)
  expire(held, day + lease)
end

if step == 'take' then
  local id = word()
  local asks, index, why, wait = {}, -1, '', -1
  local function deny(i, reason, ms)
    if index >= 0 and ms <= wait then return end
    index, why, wait = i - 1, reason, ms
  end
  for i = 1, #KEYS - 2 do
    local key = KEYS[i + 2]
    if word() == 'r' then
      local place, tokens, terms = word() == '1', number(), nextTerms()
      local rate = load(key)
      refillBoth(rate, terms)
      if rate.p > now then deny(i, 'paused', rate.p - now) end
      if place and rate.n + 1 > min(terms.concurrency, max(1, math.floor(rate.c))) then deny(i, 'concurrency', -1) end
      local ms = waitOf(rate.r, terms.requests, terms.window, 1)
      if ms > 0 then deny(i, 'requests', ms) end
      if place or tokens ~= 0 then
        ms = waitOf(rate.t, terms.tokens, terms.window, tokens)
        if ms > 0 then deny(i, 'tokens', ms) end
      end
      asks[i] = { rate = rate, place = place, tokens = tokens, terms = terms }
    else
      local limit, window, amount = number(), number(), number()
      local budget = loadBudget(key, window)
      local most = limit * (1 + slack)
      if budget.s + amount > most then deny(i, 'budget', (budget.w + 1) * window - now)
      elseif budget.s + budget.r + amount > most then deny(i, 'budget', -1) end
      asks[i] = { budget = budget, amount = amount }
    end
  end
  if index >= 0 then
    -- A denial writes nothing, but where the clock was set back: refilled from now on.
    for _, ask in ipairs(asks) do
      if ask.rate and ask.rate.setBack then save(ask.rate, ask.terms) end
    end
    return { '0', text(index), why, text(wait) }
  end
  for i, ask in ipairs(asks) do
    local rate, budget = ask.rate, ask.budget
    if rate then
      rate.r.level = rate.r.level - 1
      rate.t.level = rate.t.level - ask.tokens
      if ask.place then
        rate.n = rate.n + 1
        rate.nt = rate.nt + ask.tokens
      end
      save(rate, ask.terms)
      if ask.place or ask.tokens ~= 0 then
        redis.call('HSET', held, id .. '|' .. rate.key, 'r ' .. (ask.place and '1 ' or '0 ') .. text(ask.tokens))
      end
    else
      budget.r = budget.r + ask.amount
      saveBudget(budget)
      expire(budget.key, (budget.w + 1) * budget.window - now + hour)
      redis.call('HSET', held, id .. '|' .. budget.key, 'b ' .. text(budget.w) .. ' ' .. text(ask.amount))
    end
  end
  renew()
  return { '1', text(now) }
end

if step == 'end' then
  for i = 1, #KEYS - 2 do
    local key = KEYS[i + 2]
    local kind, field = word(), word() .. '|' .. key
    local has = redis.call('HGET', held, field)
    if has then redis.call('HDEL', held, field) end
    if kind == 'r' then
      local place, tokens, terms = word() == '1', number(), nextTerms()
      local grantedAt, usedTokens, usedRequests, outcome = number(), number(), number(), word()
      if has or not place and tokens == 0 then
        local rate = load(key)
        refillBoth(rate, terms)
        local running, ceiling, loweredAt = rate.n, rate.c, rate.la
        if place then
          rate.n = max(0, running - 1)
          rate.nt = max(0, rate.nt - tokens)
        end
        give(rate.r, terms.requests, 1 - usedRequests)
        give(rate.t, terms.tokens, tokens - usedTokens)
        if terms.adaptive and outcome == 'refused' and grantedAt >= rate.la then
          rate.c = max(1, (rate.c == inf and running or rate.c) * 0.9)
          rate.la = now
        elseif terms.adaptive and outcome == 'ok' and rate.c < inf and running >= rate.c / 2 then
          rate.c = min(terms.concurrency, rate.c + 1 / rate.c)
        end
        if rate.c == ceiling and rate.la == loweredAt then save(rate, terms)
        else save(rate, terms, 'c', text(rate.c), 'la', text(rate.la)) end
      end
    else
      local used = number()
      local window, amount = string.match(has or '', '^b (%S+) (%S+)$')
      if window then endBudget(key, window, amount, used) end
    end
  end
  return '1'
end

if step == 'learn' then
  local terms, even, pause = nextTerms(), word() == '1', number()
  local rate = load(KEYS[3])
  refillBoth(rate, terms)
  local told = false
  for _, one in ipairs({ { rate.r, rate.n }, { rate.t, rate.nt } }) do
    local bucket, taken = one[1], one[2]
    if word() == '1' then
      local limit, remaining, reset = number(), number(), number()
      told = true
      if limit and limit > 0 then bucket.limit = max(1, limit) end
      if remaining then bucket.level = min(max(bucket.level, remaining - taken), remaining) end
      if even then bucket.full = 0 end
      if reset and reset > 0 and reset <= maxTold then
        if not even then bucket.full = now + reset
        elseif remaining and bucket.limit < inf and bucket.limit - remaining >= 1 then
          local used = bucket.limit - remaining
          local period = reset * bucket.limit / used
          local usual
          for _, window in ipairs({ 1000, 60000, hour, day }) do
            if not usual and math.abs(period / window - 1) <= 0.3 then usual = window end
          end
          if usual then bucket.window = usual
          elseif used >= bucket.limit * 0.05 and period <= maxTold then bucket.window = period end
        end
      end
    end
  end
  if pause and pause > 0 then
    rate.p = max(rate.p, now + min(pause, maxTold))
    for _, bucket in ipairs(told and { rate.r } or { rate.r, rate.t }) do
      bucket.level, bucket.at = min(bucket.level, 0), rate.p
    end
  end
  refillBoth(rate, terms)
  save(rate, terms, 'rm', text(rate.r.limit), 'rw', text(rate.r.window), 'tm', text(rate.t.limit), 'tw', text(rate.t.window),
    'p', text(rate.p))
  return '1'
end

if step == 'state' then
  local terms = nextTerms()
  local rate = load(KEYS[3])
  refillBoth(rate, terms)
  return { text(rate.n), text(max(0, rate.r.level)), text(max(0, rate.t.level)), text(min(terms.concurrency, rate.c)),
    text(max(0, rate.p - now)) }
end

if step == 'renew' then renew() end
if step == 'close' then
  while redis.call('EXISTS', held) == 1 do giveBack(process) end
  redis.call('ZREM', leases, process)
end
return '1'
`
