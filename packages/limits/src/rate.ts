import type { Counter, LimitState, News, RateAsk, RateEnd, Terms } from './store.ts'

/** One counter of a limit, requests or tokens: a bucket that is full after a rest. Below 0 it is in debt. */
export class Bucket {
  level: number = Number.POSITIVE_INFINITY
  /** Refilled up to here; in the future while a pause lasts. */
  at: number
  /** As the provider has told. */
  limit: number = Number.POSITIVE_INFINITY
  /** As the provider has told; 0 for the terms' own. */
  windowMs = 0
  /** Full again all at once, and not refilled before; 0 for a bucket that is refilled evenly. */
  fullAt = 0

  constructor(now: number) {
    this.at = now
  }
}

/** How one limit stands. The script of the Redis store has the same steps, number by number: change both. */
export class Rate {
  readonly requests: Bucket
  readonly tokens: Bucket
  running = 0
  /** Taken by the calls that are running. */
  runningTokens = 0
  /** Calls at a time that the provider seems to bear. */
  ceiling: number = Number.POSITIVE_INFINITY
  loweredAt = 0
  pausedUntil = 0
  usedAt: number

  constructor(now: number) {
    this.requests = new Bucket(now)
    this.tokens = new Bucket(now)
    this.usedAt = now
  }
}

/** Sums of fractions miss what they should be by less. */
export const slack = 1e-9
const secondMs = 1000
const dayMs = 86_400_000
const usualWindows = [secondMs, 60_000, 3_600_000, dayMs] as const
/** What a provider tells of longer times is taken for garbage: it would stop a limit for good. */
const maxToldMs = 1.3 * dayMs

/** What a bucket can hold. */
export function capacityOf(bucket: Bucket, own: number): number {
  return Math.min(own, bucket.limit)
}

/** Per millisecond; the slower of what is allowed here and what the provider has told. */
function rateOf(bucket: Bucket, own: number, windowMs: number): number {
  return Math.min(own / windowMs, bucket.limit / (bucket.windowMs > 0 ? bucket.windowMs : windowMs))
}

function refill(bucket: Bucket, own: number, windowMs: number, now: number): void {
  const capacity = capacityOf(bucket, own)
  if (capacity === Number.POSITIVE_INFINITY) {
    bucket.level = capacity
    return
  }
  if (bucket.fullAt > 0) {
    if (now >= bucket.fullAt) {
      bucket.level = capacity
      bucket.fullAt = 0
      bucket.at = now
    }
  } else if (now > bucket.at) {
    bucket.level += (now - bucket.at) * rateOf(bucket, own, windowMs)
    bucket.at = now
  }
  if (bucket.level > capacity) bucket.level = capacity
}

export function refillBoth(rate: Rate, terms: Terms, now: number): void {
  refill(rate.requests, terms.requests, terms.windowMs, now)
  refill(rate.tokens, terms.tokens, terms.windowMs, now)
}

/** Of a refilled bucket: 0 when it holds `needed`, or all it can hold, else how long until it does. */
export function waitOf(bucket: Bucket, own: number, windowMs: number, needed: number, now: number): number {
  const enough = Math.min(needed, capacityOf(bucket, own))
  if (bucket.level >= enough - slack) return 0
  if (bucket.fullAt > 0) return bucket.fullAt - now
  return Math.max(bucket.at - now, 0) + (enough - bucket.level) / rateOf(bucket, own, windowMs)
}

/** Whether one more call may run. */
export function hasPlace(rate: Rate, terms: Terms): boolean {
  return rate.running + 1 <= Math.min(terms.concurrency, Math.max(1, Math.floor(rate.ceiling)))
}

export function grantRate(rate: Rate, ask: RateAsk): void {
  rate.requests.level -= 1
  rate.tokens.level -= ask.tokens
  if (!ask.place) return
  rate.running += 1
  rate.runningTokens += ask.tokens
}

export function endRate(rate: Rate, end: RateEnd, now: number): void {
  const { terms, tokens } = end
  refillBoth(rate, terms, now)
  rate.usedAt = now
  const { running } = rate
  if (end.place) {
    rate.running = Math.max(0, running - 1)
    rate.runningTokens = Math.max(0, rate.runningTokens - tokens)
  }
  give(rate.requests, terms.requests, 1 - end.usedRequests)
  give(rate.tokens, terms.tokens, tokens - end.usedTokens)
  if (!terms.adaptive) return
  if (end.outcome === 'refused' && end.at >= rate.loweredAt) {
    // Not from how many run now: a refusal for tokens may come to the one large call that is alone.
    rate.ceiling = Math.max(1, (rate.ceiling === Number.POSITIVE_INFINITY ? running : rate.ceiling) * 0.9)
    rate.loweredAt = now
  } else if (end.outcome === 'ok' && rate.ceiling !== Number.POSITIVE_INFINITY && running >= rate.ceiling / 2) {
    rate.ceiling = Math.min(terms.concurrency, rate.ceiling + 1 / rate.ceiling)
  }
}

function give(bucket: Bucket, own: number, amount: number): void {
  bucket.level = Math.min(capacityOf(bucket, own), bucket.level + amount)
}

export function learnRate(rate: Rate, terms: Terms, news: News, now: number): void {
  refillBoth(rate, terms, now)
  rate.usedAt = now
  if (news.requests !== undefined) learnCounter(rate.requests, news.requests, news.even, rate.running, now)
  if (news.tokens !== undefined) learnCounter(rate.tokens, news.tokens, news.even, rate.runningTokens, now)
  const { pauseMs } = news
  if (isAbove(pauseMs, 0)) {
    rate.pausedUntil = Math.max(rate.pausedUntil, now + Math.min(pauseMs, maxToldMs))
    empty(rate.requests, rate.pausedUntil)
    if (news.requests === undefined && news.tokens === undefined) empty(rate.tokens, rate.pausedUntil)
  }
  refillBoth(rate, terms, now)
}

function empty(bucket: Bucket, until: number): void {
  bucket.level = Math.min(bucket.level, 0)
  bucket.at = until
}

/** `taken` by calls that run: the provider may have counted them or not, so `remaining` holds within so much. */
function learnCounter(bucket: Bucket, told: Counter, even: boolean, taken: number, now: number): void {
  const { remaining, resetMs } = told
  if (isAbove(told.limit, 0)) bucket.limit = Math.max(1, told.limit)
  const { limit } = bucket
  const hasRemaining = isAbove(remaining, -1)
  if (hasRemaining) bucket.level = Math.min(Math.max(bucket.level, remaining - taken), remaining)
  if (even) bucket.fullAt = 0
  if (!isAbove(resetMs, 0) || resetMs > maxToldMs) return
  if (!even) bucket.fullAt = now + resetMs
  else if (hasRemaining && limit !== Number.POSITIVE_INFINITY && limit - remaining >= 1) {
    const used = limit - remaining
    const period = (resetMs * limit) / used
    const usual = usualWindows.find((windowMs) => Math.abs(period / windowMs - 1) <= 0.3)
    if (usual !== undefined) bucket.windowMs = usual
    else if (used >= limit * 0.05 && period <= maxToldMs) bucket.windowMs = period
  }
}

function isAbove(value: number | undefined, bound: number): value is number {
  return value !== undefined && value > bound && value < Number.POSITIVE_INFINITY
}

export function stateOfRate(rate: Rate, terms: Terms, now: number): LimitState {
  refillBoth(rate, terms, now)
  return {
    running: rate.running,
    requestsLeft: Math.max(0, rate.requests.level),
    tokensLeft: Math.max(0, rate.tokens.level),
    ceiling: Math.min(terms.concurrency, rate.ceiling),
    pausedMs: Math.max(0, rate.pausedUntil - now)
  }
}
