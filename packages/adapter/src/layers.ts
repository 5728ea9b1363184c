import type { Layer, Provider } from '@millrace/core'

/** One layer of the adapter, and why it stands where it stands. */
export interface LayerEntry {
  readonly name: string
  readonly reason: string
  readonly layer: Layer<Provider> | undefined
}

export interface LayerParts {
  readonly cache: Layer<Provider> | undefined
  readonly tokens: Layer<Provider> | undefined
  readonly operators: Layer<Provider> | undefined
  readonly deadline: Layer<Provider>
  readonly watch: Layer<Provider>
}

/** The order of layers, from the network outward. The provider below them has its content clocks and its retries. */
export function layersOf(parts: LayerParts): readonly LayerEntry[] {
  return [
    { name: 'cache', layer: parts.cache, reason: 'nearest to the provider, so that a hit spends none of what guards it' },
    { name: 'tokens', layer: parts.tokens, reason: 'outside the cache: the fitted prompt is the key' },
    {
      name: 'operators',
      layer: parts.operators,
      reason: 'outside the cache: replays are smoothed too, and a stream cut short is never stored'
    },
    {
      name: 'deadline',
      layer: parts.deadline,
      reason: 'around all that waits: cache, queue, attempts and the reading of the stream'
    },
    { name: 'watch', layer: parts.watch, reason: 'last: hits are counted, and time is what the caller sees' }
  ]
}
