import type { Chunk } from './chunk.ts'

/**
 * An iterator that can also hand over all chunks it has ready at once. A plain answer is four chunks that come together, and
 * one read of a socket holds many events of a fast stream: layers that pass them on one by one pay a promise for each chunk
 * and layer, which was seen to cost more than the call itself.
 */
export interface ChunkIterator<T = Chunk> extends AsyncIterator<T, undefined> {
  /** At least one chunk; `undefined` at the end. Calls may be mixed with `next`. */
  nextBatch(): Promise<readonly T[] | undefined>
  /** True when all has been handed over and nothing is left to be done: reading on would only say so again. */
  readonly ended: boolean
}

/**
 * All chunks that are ready, or the next one of an iterator that hands them over one by one.
 *
 * @example
 * const iterator = provider(request, {})[Symbol.asyncIterator]()
 * for (let batch = await nextBatch(iterator); batch !== undefined; batch = await nextBatch(iterator)) console.log(batch.length)
 */
export function nextBatch<T>(iterator: AsyncIterator<T, unknown>): Promise<readonly T[] | undefined> {
  const { nextBatch: own } = iterator as Partial<ChunkIterator<T>>
  return own === undefined ? iterator.next().then(oneOf) : own.call(iterator)
}

/** Whether an iterator has said, with its last batch, that there is no other. One that cannot say so is read to its end. */
export function hasEnded(iterator: AsyncIterator<unknown, unknown>): boolean {
  return (iterator as Partial<ChunkIterator<unknown>>).ended === true
}

function oneOf<T>(result: IteratorResult<T, unknown>): readonly T[] | undefined {
  return result.done === true ? undefined : [result.value]
}

/**
 * The base of a layer's iterator that passes batches on: `next` over `pull`, one read at a time, and reads that are not waited
 * for in their order. Batches that are read beside one another are pulled beside one another, for to queue them would cost each
 * batch a promise. A layer that overrides `next` or `nextBatch` calls it in the same tick. A class, for it is the hot path.
 *
 * @example
 * class Counted extends ChunkBatches {
 *   protected pull() {
 *     return nextBatch(source).then(count)
 *   }
 *   return() { ... }
 * }
 */
export abstract class ChunkBatches<T = Chunk> implements ChunkIterator<T> {
  #batch: readonly T[] = nothing
  #at = 0
  /** What a read has to wait for: the pull of one chunk, or the last of the reads that wait already. */
  #last: Promise<unknown> | undefined
  #waiting = 0
  /** To be set by the layer when nothing is left to pull, with its last batch if it knows. */
  protected over = false

  /** The next batch, not empty; `undefined` at the end. */
  protected abstract pull(): Promise<readonly T[] | undefined>
  abstract return(): Promise<IteratorResult<T, undefined>>

  get ended(): boolean {
    return this.over && this.#at === this.#batch.length
  }

  /** Forgets what was pulled and not yet handed over. */
  protected clear(): void {
    this.#batch = nothing
    this.#at = 0
  }

  nextBatch(): Promise<readonly T[] | undefined> {
    if (this.#last !== undefined) return this.#behind(this.#last, () => this.nextBatch())
    if (this.#at === this.#batch.length) return this.pull()
    const rest = this.#batch.slice(this.#at)
    this.clear()
    return Promise.resolve(rest)
  }

  next(): Promise<IteratorResult<T, undefined>> {
    if (this.#last !== undefined) return this.#behind(this.#last, () => this.next())
    const value = this.#batch[this.#at]
    if (value !== undefined) {
      this.#at++
      return Promise.resolve({ done: false, value })
    }
    const pulled = this.#take()
    this.#last = pulled
    return pulled
  }

  async #take(): Promise<IteratorResult<T, undefined>> {
    try {
      const batch = await this.pull()
      const value = batch?.[0]
      if (batch === undefined || value === undefined) return { done: true, value: undefined }
      this.#batch = batch
      this.#at = 1
      return { done: false, value }
    } finally {
      if (this.#waiting === 0) this.#last = undefined
    }
  }

  /** Each read waits for the one before it. When its turn comes it is made again, as if none was waiting. */
  #behind<R>(last: Promise<unknown>, read: () => Promise<R>): Promise<R> {
    const turn = (): Promise<R> => {
      const newest = this.#last
      this.#last = undefined
      try {
        return read()
      } finally {
        this.#last = newest
      }
    }
    const settled = (): void => {
      if (--this.#waiting === 0) this.#last = undefined
    }
    const mine = last.then(turn, turn)
    this.#last = mine
    this.#waiting++
    mine.then(settled, settled)
    return mine
  }
}

const nothing: readonly never[] = []
