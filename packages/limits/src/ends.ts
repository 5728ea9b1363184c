import type { Wanted } from './rules.ts'
import type { End } from './store.ts'

/** What became of a call, for the ends of all it took. */
export interface Outcome {
  /** As they were asked for, where it is not known. */
  readonly tokens: number | undefined
  readonly usd: number | undefined
  readonly requests: 0 | 1
  readonly outcome: 'ok' | 'refused' | 'none'
}

/** Nothing was sent. */
export const unsent: Outcome = { tokens: 0, usd: 0, requests: 0, outcome: 'none' }

/** What is handed back for what was taken. */
export function endsOf(asks: readonly Wanted[], at: number, { tokens, usd, requests, outcome }: Outcome): End[] {
  return asks.map((ask) =>
    ask.kind === 'rate'
      ? {
          kind: 'rate',
          key: ask.key,
          terms: ask.terms,
          at,
          tokens: ask.tokens,
          place: ask.place,
          usedTokens: tokens ?? ask.tokens,
          usedRequests: requests,
          outcome
        }
      : {
          kind: 'budget',
          key: ask.key,
          windowMs: ask.windowMs,
          at,
          amount: ask.amount,
          used: (ask.unit === 'usd' ? usd : tokens) ?? ask.amount
        }
  )
}

/** Tells that an attempt was refused, and takes nothing back. */
export function refusalOf(asks: readonly Wanted[], at: number): End[] {
  return asks
    .filter((ask) => ask.kind === 'rate')
    .map(({ key, terms }) => ({
      kind: 'rate',
      key,
      terms,
      at,
      tokens: 0,
      place: false,
      usedTokens: 0,
      usedRequests: 1,
      outcome: 'refused'
    }))
}
