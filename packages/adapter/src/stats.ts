import { type CallEnd, inputTokens, isFromCache, outputTokens } from '@millrace/core'

/** What an adapter did since it was made. Times are milliseconds; a mean is `null` where there was nothing to take it of. */
export interface CallStats {
  /** Calls that have ended, however. */
  readonly calls: number
  readonly succeeded: number
  readonly failed: number
  /** Ended by the caller: by its signal, or by leaving the stream. */
  readonly aborted: number
  /** Running now. */
  readonly running: number
  /** Answered by the cache, fresh or joined to a running call. */
  readonly cached: number
  /** Tokens the provider billed. */
  readonly tokens: { readonly input: number; readonly output: number }
  /** Tokens of answers that needed no call of their own. */
  readonly tokensSaved: { readonly input: number; readonly output: number }
  /** Tokens that the budget took out of prompts. */
  readonly tokensFitted: number
  /** What the billed tokens cost in USD, by the adapter's `price`; null without one. */
  readonly moneySpent: number | null
  /** What the tokens of answers that needed no call of their own are worth. */
  readonly moneySaved: number | null
  /** Calls whose tokens have no known price. */
  readonly unpriced: number
  /** Calls that brought content and no usage: ended by their caller, or by a provider that does not tell it. */
  readonly unmetered: number
  /** Mean duration of successful calls that went to the provider. */
  readonly meanMs: number | null
  /** Mean duration of successful calls the cache answered; kept apart, for together they would say nothing. */
  readonly cachedMeanMs: number | null
  /** Mean time to the first content of calls that went to the provider. */
  readonly meanFirstContentMs: number | null
  /** Mean time spent in this process by successful calls that were not joined to another: see `overheadMs` of `CallEnd`. */
  readonly meanOverheadMs: number | null
}

export interface CallCounter {
  add(end: CallEnd): void
  stats(running: number): CallStats
}

/** Exact means: sums and counts, divided when somebody asks. */
export function createCallCounter(hasPrices: boolean): CallCounter {
  let succeeded = 0
  let failed = 0
  let aborted = 0
  let cached = 0
  const billed = { input: 0, output: 0 }
  const saved = { input: 0, output: 0 }
  const money = { spent: 0, saved: 0 }
  let tokensFitted = 0
  let unpriced = 0
  let unmetered = 0
  const overhead = { sum: 0, count: 0 }
  const upstream = { sum: 0, count: 0 }
  const fromCache = { sum: 0, count: 0 }
  const firstContent = { sum: 0, count: 0 }

  function addTo(mean: { sum: number; count: number }, value: number): void {
    mean.sum += value
    mean.count++
  }

  return {
    add({ outcome, elapsedMs, firstContentMs, contents, usage, cost, saved: worth, overheadMs, notes }) {
      if (outcome === 'success') succeeded++
      else if (outcome === 'error') failed++
      else aborted++
      const byCache = isFromCache(notes.cache)
      if (byCache) cached++
      if (usage !== undefined) {
        const tokens = usage.billed ? billed : saved
        tokens.input += inputTokens(usage)
        tokens.output += outputTokens(usage)
      } else if (contents > 0) unmetered++
      if (cost === null) unpriced++
      money.spent += cost ?? 0
      money.saved += worth ?? 0
      const fitted = notes.tokens?.saved
      if (typeof fitted === 'number' && fitted >= 0 && Number.isFinite(fitted)) tokensFitted += fitted
      if (overheadMs !== undefined) addTo(overhead, overheadMs)
      if (outcome !== 'success') return
      addTo(byCache ? fromCache : upstream, elapsedMs)
      if (!byCache && firstContentMs !== undefined) addTo(firstContent, firstContentMs)
    },
    stats(running) {
      return {
        calls: succeeded + failed + aborted,
        succeeded,
        failed,
        aborted,
        running,
        cached,
        tokens: { ...billed },
        tokensSaved: { ...saved },
        tokensFitted,
        moneySpent: hasPrices ? money.spent : null,
        moneySaved: hasPrices ? money.saved : null,
        unpriced,
        unmetered,
        meanMs: meanOf(upstream),
        cachedMeanMs: meanOf(fromCache),
        meanFirstContentMs: meanOf(firstContent),
        meanOverheadMs: meanOf(overhead)
      }
    }
  }
}

function meanOf({ sum, count }: { sum: number; count: number }): number | null {
  return count === 0 ? null : sum / count
}
