import type { BudgetAsk, BudgetEnd, RateAsk, RateEnd, Terms, Verdict } from '../src/store.ts'

const wide: Terms = {
  concurrency: Number.POSITIVE_INFINITY,
  requests: Number.POSITIVE_INFINITY,
  tokens: Number.POSITIVE_INFINITY,
  windowMs: 60_000,
  adaptive: true
}
export const dayMs = 86_400_000

export function rateAsk(terms: Partial<Terms> = {}, { key = 'k', tokens = 0, place = true }: Partial<RateAsk> = {}): RateAsk {
  return { kind: 'rate', key, terms: { ...wide, ...terms }, tokens, place }
}

export function rateEnd(ask: RateAsk, at: number, end: Partial<RateEnd> = {}): RateEnd {
  return { ...ask, at, usedTokens: ask.tokens, usedRequests: 1, outcome: 'ok', ...end }
}

export function budgetAsk(limit: number, amount: number, { key = 'b', windowMs = dayMs }: Partial<BudgetAsk> = {}): BudgetAsk {
  return { kind: 'budget', key, limit, windowMs, amount }
}

export function budgetEnd({ key, windowMs, amount }: BudgetAsk, at: number, used: number): BudgetEnd {
  return { kind: 'budget', key, windowMs, at, amount, used }
}

/** @throws {Error} when it was denied */
export function grantedAt(verdict: Verdict): number {
  if (!verdict.granted) throw new Error(`denied: ${verdict.why}`)
  return verdict.at
}
