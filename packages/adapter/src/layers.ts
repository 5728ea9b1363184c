import { type Layer, type Provider, pipe } from '@millrace/core'
import type { ConnectedCandidate } from './candidates.ts'

/** One layer of the adapter, and why it stands where it stands. */
export interface LayerEntry {
  readonly name: string
  readonly reason: string
  /** Around each provider by itself: what is made for one of this name. */
  readonly around?: ((name: string) => Layer<Provider>) | undefined
  /** Makes one provider of all of them. */
  readonly choose?: ((candidates: readonly ConnectedCandidate[]) => Provider) | undefined
  readonly layer?: Layer<Provider> | undefined
}

export interface LayerParts {
  readonly limits: LayerEntry['around']
  readonly fallback: LayerEntry['choose']
  readonly cache: Layer<Provider> | undefined
  readonly tokens: Layer<Provider> | undefined
  readonly operators: Layer<Provider> | undefined
  readonly deadline: Layer<Provider>
  readonly watch: Layer<Provider>
}

/** The order of layers, from the network outward. The provider below them has its content clocks and its retries. */
export function layersOf(parts: LayerParts): readonly LayerEntry[] {
  return [
    { name: 'limits', around: parts.limits, reason: 'around each provider: one that is full is a reason to ask the next' },
    {
      name: 'fallback',
      choose: parts.fallback,
      reason: 'below the cache: equal questions share one answer, whoever gives it, and a hit asks nobody'
    },
    { name: 'cache', layer: parts.cache, reason: 'outside limits and fallback: a hit takes nothing of any limit or budget' },
    { name: 'tokens', layer: parts.tokens, reason: 'outside the cache: the fitted prompt is the key' },
    {
      name: 'operators',
      layer: parts.operators,
      reason: 'outside the cache: replays are smoothed too, and a stream cut short is never stored'
    },
    {
      name: 'deadline',
      layer: parts.deadline,
      reason: 'around all that waits: cache, queue, attempts, providers and the reading of the stream'
    },
    { name: 'watch', layer: parts.watch, reason: 'last: hits are counted, and time is what the caller sees' }
  ]
}

/** The providers with all layers around them, as one. */
export function assemble(candidates: readonly ConnectedCandidate[], layers: readonly LayerEntry[]): Provider {
  const arounds = layers.flatMap(({ around }) => around ?? [])
  const guarded = candidates.map((candidate) => ({
    ...candidate,
    provider: pipe(candidate.provider, ...arounds.map((around) => around(candidate.name)))
  }))
  const [first] = guarded
  const chosen = layers.reduce((provider, { choose }) => choose?.(guarded) ?? provider, (first as ConnectedCandidate).provider)
  return pipe(chosen, ...layers.flatMap(({ layer }) => layer ?? []))
}
