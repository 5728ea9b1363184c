import type { Counter, LimitState, News, RateAsk, RateEnd, Terms } from './store.ts'

/** One counter of a limit, requests or tokens: a bucket that is full after a rest, refilled evenly. Below 0 it is in debt. */
export class Bucket {
  level: number = Number.POSITIVE_INFINITY
  /** Refilled up to here; in the future while a pause lasts. */
  at: number

  constructor(now: number) {
    this.at = now
  }
}

/** What the provider has told of a counter. It stands beside the limit's own, which it can therefore never lift. */
export class Told extends Bucket {
  limit: number = Number.POSITIVE_INFINITY
  /** 0 for the terms' own. */
  windowMs = 0
  /** A window told once, on little ground. */
  perhapsMs = 0
  /** Full again all at once, and not refilled before; 0 for a bucket that is refilled evenly. */
  fullAt = 0
  /**
   * Believed until then, and on until an answer comes that does not say so again: which one call at a time may bring, however
   * long it would have to wait by this.
   */
  until = 0
}

/** How one limit stands. The script of the Redis store has the same steps, number by number: change both. */
export class Rate {
  readonly requests: Bucket
  readonly tokens: Bucket
  toldRequests: Told | undefined
  toldTokens: Told | undefined
  running = 0
  /** Taken by the calls that are running. */
  runningTokens = 0
  /** Calls at a time that the provider seemed to bear when it refused one last. */
  ceiling: number = Number.POSITIVE_INFINITY
  /** Up to here it is raised fast. */
  good: number = Number.POSITIVE_INFINITY
  /** The most calls that ran at a time, of the last hundred or so. */
  peak = 0
  loweredAt = 0
  pausedUntil = 0
  usedAt: number

  constructor(now: number) {
    this.requests = new Bucket(now)
    this.tokens = new Bucket(now)
    this.toldRequests = undefined
    this.toldTokens = undefined
    this.usedAt = now
  }
}

/** Sums of fractions miss what they should be by less. */
export const slack = 1e-9
const minuteMs = 60_000
const dayMs = 86_400_000
const usualWindows = [1000, minuteMs, 3_600_000, dayMs] as const
/** What a provider tells of longer times is taken for garbage: it would stop a limit for good. */
const maxToldMs = 1.3 * dayMs
/** What it has told of its limits is believed for so long, or for two windows. */
const believedMs = 10 * minuteMs

function refill(bucket: Bucket, limit: number, windowMs: number, now: number): void {
  if (limit === Number.POSITIVE_INFINITY) {
    bucket.level = limit
    return
  }
  if (now > bucket.at) {
    bucket.level += (now - bucket.at) * (limit / windowMs)
    bucket.at = now
  }
  if (bucket.level > limit) bucket.level = limit
}

function refillTold(told: Told, { windowMs }: Terms, now: number): void {
  if (told.fullAt === 0) refill(told, told.limit, told.windowMs || windowMs, now)
  else if (now >= told.fullAt) {
    told.level = told.limit
    told.fullAt = 0
    told.at = now
  }
}

export function refillBoth(rate: Rate, terms: Terms, now: number): void {
  refill(rate.requests, terms.requests, terms.windowMs, now)
  refill(rate.tokens, terms.tokens, terms.windowMs, now)
  if (rate.toldRequests !== undefined) refillTold(rate.toldRequests, terms, now)
  if (rate.toldTokens !== undefined) refillTold(rate.toldTokens, terms, now)
}

/** What was told, but for a call without `others` once it is old: all might wait for it else, and no answer come. */
export function believed(told: Told | undefined, others: number, now: number): Told | undefined {
  return told !== undefined && now >= told.until && others <= 0 ? undefined : told
}

/** Of refilled buckets: 0 when they hold `needed`, or all they can hold, else how long until they do. */
export function waitOf(
  bucket: Bucket,
  told: Told | undefined,
  limit: number,
  windowMs: number,
  needed: number,
  now: number
): number {
  const ownMs = refillMs(bucket, limit, windowMs, needed, now)
  if (told === undefined) return ownMs
  let toldMs = refillMs(told, told.limit, told.windowMs || windowMs, needed, now)
  if (toldMs > 0 && told.fullAt > 0) toldMs = told.fullAt - now
  if (now < told.until) toldMs = Math.min(toldMs, told.until - now)
  return Math.max(ownMs, toldMs)
}

function refillMs(bucket: Bucket, limit: number, windowMs: number, needed: number, now: number): number {
  const enough = Math.min(needed, limit)
  if (bucket.level >= enough - slack) return 0
  return Math.max(bucket.at - now, 0) + (enough - bucket.level) / (limit / windowMs)
}

/** Whether one more call may run. */
export function hasPlace(rate: Rate, terms: Terms, now: number): boolean {
  return rate.running + 1 <= Math.min(terms.concurrency, Math.max(1, Math.floor(ceilingOf(rate, now))))
}

/** Lifted by time, from a minute after the last refusal on: slowly at first, for only few calls to be refused when it is too much. */
function ceilingOf({ ceiling, loweredAt }: Rate, now: number): number {
  const lift = (now - loweredAt) / minuteMs
  return ceiling === Number.POSITIVE_INFINITY || lift <= 1 ? ceiling : ceiling * lift * lift
}

export function grantRate(rate: Rate, ask: RateAsk): void {
  rate.requests.level -= 1
  rate.tokens.level -= ask.tokens
  if (rate.toldRequests !== undefined) lend(rate.toldRequests, 1)
  if (rate.toldTokens !== undefined) lend(rate.toldTokens, ask.tokens)
  if (!ask.place) return
  rate.running += 1
  rate.runningTokens += ask.tokens
}

/** What was told may be less than one call needs, by far: that leaves no more debt than one window. */
function lend(told: Told, amount: number): void {
  told.level = Math.max(told.level - amount, Math.min(told.level, -told.limit))
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
  const requestsBack = 1 - end.usedRequests
  const tokensBack = tokens - end.usedTokens
  give(rate.requests, terms.requests, requestsBack)
  give(rate.tokens, terms.tokens, tokensBack)
  if (rate.toldRequests !== undefined) give(rate.toldRequests, rate.toldRequests.limit, requestsBack)
  if (rate.toldTokens !== undefined) give(rate.toldTokens, rate.toldTokens.limit, tokensBack)
  if (!terms.adaptive) return
  // By calls, not by time: of a night without any, the morning begins with what it was.
  rate.peak = running >= rate.peak ? running : rate.peak - (rate.peak - running) * 0.01
  if (end.outcome === 'refused' && end.at >= rate.loweredAt) lower(rate, terms, now)
  else if (end.outcome === 'ok') answered(rate, end, running, now)
}

function lower(rate: Rate, terms: Terms, now: number): void {
  const before = Math.min(terms.concurrency, ceilingOf(rate, now))
  // A call that is refused alone says nothing of how many are too many.
  const from = rate.peak >= 2 ? Math.min(before, rate.peak) : before
  rate.ceiling = Math.max(1, (from === Number.POSITIVE_INFINITY ? 1 : from) * 0.9)
  rate.good = before * 0.9
  rate.loweredAt = now
}

function answered(rate: Rate, end: RateEnd, running: number, now: number): void {
  if (rate.toldRequests !== undefined && now >= rate.toldRequests.until) rate.toldRequests = undefined
  if (rate.toldTokens !== undefined && now >= rate.toldTokens.until) rate.toldTokens = undefined
  if (rate.ceiling === Number.POSITIVE_INFINITY || end.at < rate.loweredAt) return
  const ceiling = ceilingOf(rate, now)
  if (running < ceiling / 2) return
  rate.ceiling = Math.min(end.terms.concurrency, rate.ceiling + (ceiling < rate.good ? 1 : 1 / ceiling))
}

/** What a call used beyond what it asked for leaves no more debt than one window: it is what others have told, and may be absurd. */
function give(bucket: Bucket, limit: number, amount: number): void {
  bucket.level = Math.min(limit, Math.max(bucket.level + amount, Math.min(bucket.level, -limit)))
}

export function learnRate(rate: Rate, terms: Terms, news: News, now: number): void {
  const { even, pauseMs } = news
  refillBoth(rate, terms, now)
  rate.usedAt = now
  if (news.requests !== undefined) {
    rate.toldRequests ??= toldOf(news.requests, terms.requests, now)
    if (rate.toldRequests !== undefined) learnCounter(rate.toldRequests, terms, news.requests, even, rate.running, now)
  }
  if (news.tokens !== undefined) {
    rate.toldTokens ??= toldOf(news.tokens, terms.tokens, now)
    if (rate.toldTokens !== undefined) learnCounter(rate.toldTokens, terms, news.tokens, even, rate.runningTokens, now)
  }
  if (isAbove(pauseMs, 0)) {
    rate.pausedUntil = Math.max(rate.pausedUntil, now + Math.min(pauseMs, maxToldMs))
    empty(rate.requests, rate.pausedUntil)
    empty(rate.toldRequests, rate.pausedUntil)
    if (news.requests === undefined && news.tokens === undefined) {
      empty(rate.tokens, rate.pausedUntil)
      empty(rate.toldTokens, rate.pausedUntil)
    }
  }
  refillBoth(rate, terms, now)
}

function empty(bucket: Bucket | undefined, until: number): void {
  if (bucket === undefined) return
  bucket.level = Math.min(bucket.level, 0)
  bucket.at = until
}

/** Nothing to go by without a limit; what remains is of the limit's own where no other was told. */
function toldOf({ limit, remaining }: Counter, own: number, now: number): Told | undefined {
  const first = isAbove(limit, 0) ? limit : isAbove(remaining, -1) ? own : Number.POSITIVE_INFINITY
  if (first === Number.POSITIVE_INFINITY) return undefined
  const told = new Told(now)
  told.limit = Math.max(1, first)
  return told
}

/** `taken` by calls that run: the provider may have counted them or not, so `remaining` holds within so much. */
function learnCounter(told: Told, terms: Terms, news: Counter, even: boolean, taken: number, now: number): void {
  const { remaining, resetMs } = news
  const hasRemaining = isAbove(remaining, -1)
  if (isAbove(news.limit, 0)) told.limit = Math.max(1, news.limit)
  if (hasRemaining) told.level = Math.min(Math.max(told.level, remaining - taken), remaining)
  told.at = Math.max(told.at, now)
  if (even) told.fullAt = 0
  if (isAbove(resetMs, 0) && resetMs <= maxToldMs) {
    if (!even) told.fullAt = now + resetMs
    else if (hasRemaining) learnWindow(told, told.limit - remaining, resetMs)
  }
  if (!hasRemaining && !isAbove(news.limit, 0)) return
  told.until = now + Math.max(believedMs, 2 * Math.max(told.windowMs || terms.windowMs, told.fullAt - now))
}

function learnWindow(told: Told, used: number, resetMs: number): void {
  if (used < 1) return
  const period = (resetMs * told.limit) / used
  const isSure = used >= told.limit * 0.05
  const usual = usualWindows.find((windowMs) => Math.abs(period / windowMs - 1) <= 0.3)
  if (usual !== undefined && (isSure || told.perhapsMs === usual)) told.windowMs = usual
  else if (usual === undefined && isSure && period <= maxToldMs) told.windowMs = period
  told.perhapsMs = usual ?? 0
}

function isAbove(value: number | undefined, bound: number): value is number {
  return value !== undefined && value > bound && value < Number.POSITIVE_INFINITY
}

export function stateOfRate(rate: Rate, terms: Terms, now: number): LimitState {
  refillBoth(rate, terms, now)
  const { toldRequests, toldTokens } = rate
  return {
    running: rate.running,
    requestsLeft: Math.max(0, Math.min(rate.requests.level, toldRequests?.level ?? Number.POSITIVE_INFINITY)),
    tokensLeft: Math.max(0, Math.min(rate.tokens.level, toldTokens?.level ?? Number.POSITIVE_INFINITY)),
    ceiling: Math.min(terms.concurrency, ceilingOf(rate, now)),
    pausedMs: Math.max(0, rate.pausedUntil - now)
  }
}
