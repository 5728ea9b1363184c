import type { ChunkIterator } from '@millrace/core'

export interface Batched<T> extends AsyncIterable<T> {
  [Symbol.asyncIterator](): ChunkIterator<T>
  readonly reads: number
  readonly returned: number
}

/** A source that hands over these batches and, with the last, says that it has ended; as those of the adapter do. */
export function batched<T>(...batches: readonly (readonly T[])[]): Batched<T> {
  let at = 0
  let within = 0
  let reads = 0
  let returned = 0
  return {
    get reads() {
      return reads
    },
    get returned() {
      return returned
    },
    [Symbol.asyncIterator]: () => ({
      async next() {
        reads++
        const batch = batches[at]
        if (batch === undefined) return { done: true, value: undefined }
        const value = batch[within++] as T
        if (within === batch.length) {
          at++
          within = 0
        }
        return { done: false, value }
      },
      async nextBatch() {
        reads++
        const rest = batches[at++]?.slice(within)
        within = 0
        return rest
      },
      get ended() {
        return at >= batches.length
      },
      async return() {
        returned++
        at = batches.length
        return { done: true, value: undefined }
      }
    })
  }
}
