import type { BucketState, RateState } from './dialect.ts'

/** A bucket that refills evenly; time is passed in, so that a test of it needs no clock. */
export interface TokenBucket {
  /** Takes `amount` if there is so much, and tells how full the bucket is then. More than it ever holds counts as all of it. */
  take(nowMs: number, amount?: number): BucketState & { readonly accepted: boolean }
  /** How long until there is so much; 0 when there is. */
  waitMs(nowMs: number, amount: number): number
}

export function createTokenBucket(limit: number, perMs: number): TokenBucket {
  const perToken = perMs / limit
  let tokens = limit
  let filledAt = 0

  function waitMs(nowMs: number, amount: number): number {
    tokens = Math.min(limit, tokens + Math.max(0, nowMs - filledAt) / perToken)
    filledAt = nowMs
    const missing = Math.min(limit, amount) - tokens
    return missing <= 0 ? 0 : Math.max(1, Math.ceil(missing * perToken))
  }

  return {
    waitMs,
    take(nowMs, amount = 1) {
      const wait = waitMs(nowMs, amount)
      if (wait === 0) tokens -= Math.min(limit, amount)
      return {
        accepted: wait === 0,
        limit,
        remaining: Math.floor(tokens),
        waitMs: wait,
        resetMs: Math.ceil((limit - tokens) * perToken)
      }
    }
  }
}

/** What a server accepts, of requests and of tokens, both within the same time. */
export interface RateLimit {
  /** @default Infinity */
  readonly requests?: number | undefined
  /** Of the request and its answer, counted when it is accepted. @default Infinity */
  readonly tokens?: number | undefined
  readonly perMs: number
  /** False tells nothing of it but `retry-after` with a 429. @default true */
  readonly headers?: boolean | undefined
}

/** Takes one request and its tokens, or neither. */
export function createRateLimiter({
  requests,
  tokens,
  perMs,
  headers = true
}: RateLimit): (nowMs: number, amount: number) => RateState {
  const requestBucket = requests === undefined ? undefined : createTokenBucket(requests, perMs)
  const tokenBucket = tokens === undefined ? undefined : createTokenBucket(tokens, perMs)
  return (nowMs, amount) => {
    const waitMs = Math.max(requestBucket?.waitMs(nowMs, 1) ?? 0, tokenBucket?.waitMs(nowMs, amount) ?? 0)
    // Nothing is taken of a bucket that has enough when the other one has not.
    const taken = waitMs === 0
    const requestState = requestBucket?.take(nowMs, taken ? 1 : 0)
    const tokenState = tokenBucket?.take(nowMs, taken ? amount : 0)
    return headers ? { requests: requestState, tokens: tokenState, waitMs } : { waitMs }
  }
}
