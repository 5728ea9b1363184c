import type { Provider, Timeouts } from '@millrace/core'
import type { ConnectedCandidate } from './candidates.ts'
import { Cooling } from './cooling.ts'
import { FallbackCall } from './fallback-call.ts'
import { chooseBy, type Rival } from './fallback-choice.ts'
import { checkFallback, type FallbackOptions } from './fallback-options.ts'

export interface FallbackStats {
  readonly calls: number
  /** Calls that were answered by another than the one they asked first. */
  readonly movedOn: number
  /** Calls that failed at every provider. */
  readonly exhausted: number
  /** In the order of the list. */
  readonly providers: readonly FallbackProviderStats[]
}

export interface FallbackProviderStats {
  readonly name: string
  readonly asked: number
  /** Content, or an end without any, came from it. */
  readonly answered: number
  /** Failures that moved a call on, or would have if another was left. */
  readonly failed: number
  /** Calls that asked another because this one was cooling down. */
  readonly passedOver: number
  /** How many models are cooling down, or have failed and not been asked again since. */
  readonly cooling: number
}

export interface Fallback {
  readonly provider: Provider
  stats(): FallbackStats
}

/**
 * Several providers as one: it asks one of them, and the next where that one fails before the first content of its answer.
 * Until then start and notes are held back, so nothing of a failed one is seen. Those that have failed lately are asked last,
 * the one that is free soonest first, so that a cool-down never fails a call. Where any was tried or passed over, a
 * `fallback` note behind the start tells who answers and why: `{ provider, tried: [{ provider, model, code, status?, reason:
 * 'failed' | 'limited' | 'cooling' }] }`. When all fail, the last error that may pass is thrown, or else the last, with the same list as
 * `error.context.tried`.
 *
 * A provider that is not the first of the list gets the call's idempotency key with its place behind it: the same provider
 * may stand there under another model. Set `timeouts.firstChunkMs`, so that one that stays silent is left in time.
 *
 * `timeouts` are those of a call that sets none: a clock that a call has set shorter says nothing of the provider.
 *
 * @throws {TypeError} for options that make no sense
 *
 * @example
 * const { provider } = createFallback([{ name: 'near', provider: near }, { name: 'far', provider: far, model: 'm-large' }])
 */
export function createFallback(
  candidates: readonly ConnectedCandidate[],
  options: FallbackOptions = {},
  timeouts: Timeouts = {}
): Fallback {
  if (candidates.length === 0) throw new TypeError('a fallback needs at least one provider')
  const rules = checkFallback(options, timeouts)
  const rivals = candidates.map((candidate, index): Rival => {
    const counts = { asked: 0, answered: 0, failed: 0, passedOver: 0 }
    return { ...candidate, index, cooling: new Cooling(rules.coolDownMs, rules.now), counts }
  })
  const counts = { calls: 0, movedOn: 0, exhausted: 0 }
  const shared = { rules, counts, choose: chooseBy(rules, rivals), size: rivals.length }
  return {
    provider: (request, call) => ({ [Symbol.asyncIterator]: () => new FallbackCall(shared, request, call) }),
    stats: () => ({
      ...counts,
      providers: rivals.map(({ name, counts: own, cooling }) => ({ name, ...own, cooling: cooling.size }))
    })
  }
}
