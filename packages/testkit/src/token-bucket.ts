import type { RateState } from './dialect.ts'

/** A bucket that refills evenly; time is passed in, so that a test of it needs no clock. */
export interface TokenBucket {
  /** Takes one if there is one, and tells how full the bucket is then. */
  take(nowMs: number): RateState & { readonly accepted: boolean }
}

export function createTokenBucket(requests: number, perMs: number): TokenBucket {
  const perToken = perMs / requests
  let tokens = requests
  let filledAt = 0
  return {
    take(nowMs) {
      tokens = Math.min(requests, tokens + Math.max(0, nowMs - filledAt) / perToken)
      filledAt = nowMs
      const accepted = tokens >= 1
      if (accepted) tokens--
      return {
        accepted,
        limit: requests,
        remaining: Math.floor(tokens),
        waitMs: accepted ? 0 : Math.max(1, Math.ceil((1 - tokens) * perToken)),
        resetMs: Math.ceil((requests - tokens) * perToken)
      }
    }
  }
}
