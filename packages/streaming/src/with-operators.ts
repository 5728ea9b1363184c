import {
  type CallOptions,
  type Chunk,
  type ChunkIterator,
  hasEnded,
  type Layer,
  type LinkedAbort,
  linkAbort,
  nextBatch,
  type Provider
} from '@millrace/core'
import { isAsyncIterable } from './check-source.ts'
import type { Operator } from './operate.ts'

/**
 * A layer that sends every answer through these operators, the first nearest to the provider. When the reader leaves or
 * an operator has enough, the provider's call is aborted first and returned second, so that even one that is busy reading
 * ends at once.
 *
 * @example
 * const provider = pipe(base, withOperators(coalesce(), limitTokens(500, tokenizer.counter)))
 */
export function withOperators(...operators: readonly Operator<Chunk>[]): Layer<Provider> {
  for (const operator of operators as readonly unknown[]) {
    if (typeof operator !== 'function') throw new TypeError('withOperators takes operators, such as coalesce()')
  }
  return (next) => (request, options) => {
    const source: AsyncIterable<Chunk> = {
      [Symbol.asyncIterator]: () => abortFirst((linked) => next(request, linked), options)
    }
    return operators.reduce((chunks, operator) => {
      const operated = operator(chunks, request)
      if (isAsyncIterable(operated)) return operated
      const { name } = operator
      throw new TypeError(
        typeof operated === 'function' && name !== ''
          ? `withOperators takes operators: write ${name}(), not ${name}`
          : 'withOperators takes operators, such as coalesce(), that give an async iterable'
      )
    }, source)
  }
}

/** Begins the call at the first read, under a signal of its own. */
function abortFirst(call: (options: CallOptions) => AsyncIterable<Chunk>, options: CallOptions): ChunkIterator {
  let linked: LinkedAbort | undefined
  let source: AsyncIterator<Chunk, undefined> | undefined
  let left = false

  function begin(): AsyncIterator<Chunk, undefined> {
    linked = linkAbort(options.signal)
    return call({ ...options, signal: linked.signal })[Symbol.asyncIterator]() as AsyncIterator<Chunk, undefined>
  }

  function over(): void {
    left = true
    linked?.[Symbol.dispose]()
  }

  function failed(error: unknown): never {
    over()
    throw error
  }

  /** A call that cannot be begun fails as one that breaks does: by a rejection. */
  async function read<R>(take: (from: AsyncIterator<Chunk, undefined>) => Promise<R>): Promise<R> {
    source ??= begin()
    return take(source)
  }

  function took(result: IteratorResult<Chunk, undefined>): IteratorResult<Chunk, undefined> {
    if (result.done === true) over()
    return result
  }

  function tookAll(batch: readonly Chunk[] | undefined): readonly Chunk[] | undefined {
    if (batch === undefined || (source !== undefined && hasEnded(source))) over()
    return batch
  }

  return {
    next() {
      if (left) return Promise.resolve({ done: true, value: undefined })
      return read((from) => from.next()).then(took, failed)
    },
    nextBatch() {
      if (left) return Promise.resolve(undefined)
      return read(nextBatch).then(tookAll, failed)
    },
    get ended() {
      return source !== undefined && hasEnded(source)
    },
    async return() {
      left = true
      linked?.abort(new DOMException('the reader has left the stream', 'AbortError'))
      linked?.[Symbol.dispose]()
      await source?.return?.()
      return { done: true, value: undefined }
    }
  }
}
