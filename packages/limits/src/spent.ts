import { inputTokens, outputTokens, type Usage } from '@millrace/core'
import type { LimiterParts } from './limiter.ts'
import type { Spent, Subject } from './permit.ts'

/** Of an answer that is not billed. */
export const nothingSpent: Spent = { tokens: 0, usd: 0 }
/** More than any model writes or reads in one answer is garbage, and would stop a limit for days. */
const mostTokens = 100_000_000

/**
 * What an answer's usage comes to. It never throws, for the answer is there and paid for: usage that makes no sense, and a price that
 * fails or is none, are left out, so that they are settled as reserved. Each is counted.
 */
export function spentOf(parts: LimiterParts, usage: Usage, { model = '', provider = '' }: Subject): Spent {
  if (!usage.billed) return nothingSpent
  const { uncached, cacheRead, cacheWrite } = usage.input
  const { text, reasoning } = usage.output
  const tokens = inputTokens(usage) + outputTokens(usage)
  // NaN is not above anything.
  if (!(Math.min(uncached, cacheRead, cacheWrite, text, reasoning) >= 0 && tokens <= mostTokens)) {
    parts.counts.usageIgnored++
    return {}
  }
  return { tokens, usd: usdOf(parts, usage, model, provider) }
}

function usdOf({ price, counts }: LimiterParts, usage: Usage, model: string, provider: string): number | undefined {
  try {
    const usd = price?.(usage, model, provider)
    if (usd === undefined || (typeof usd === 'number' && usd >= 0 && usd < Number.POSITIVE_INFINITY)) return usd
  } catch {
    // Counted below. The caller's answer is not to end in an error of its price list.
  }
  counts.priceFailures++
  return undefined
}
