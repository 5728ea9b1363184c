import { type CallOptions, type Chunk, type Layer, type LinkedAbort, linkAbort, type Provider } from '@millrace/core'
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
    return operators.reduce((chunks, operator) => operator(chunks), source)
  }
}

/** Begins the call at the first `next()`, under a signal of its own. */
function abortFirst(call: (options: CallOptions) => AsyncIterable<Chunk>, options: CallOptions): AsyncIterator<Chunk> {
  let linked: LinkedAbort | undefined
  let source: AsyncIterator<Chunk> | undefined
  let left = false

  function took(result: IteratorResult<Chunk>): IteratorResult<Chunk> {
    if (result.done === true) linked?.[Symbol.dispose]()
    return result
  }

  function failed(error: unknown): never {
    left = true
    linked?.[Symbol.dispose]()
    throw error
  }

  async function start(): Promise<IteratorResult<Chunk>> {
    linked = linkAbort(options.signal)
    try {
      source = call({ ...options, signal: linked.signal })[Symbol.asyncIterator]()
    } catch (error) {
      failed(error)
    }
    return source.next().then(took, failed)
  }

  return {
    next() {
      if (source !== undefined) return source.next().then(took, failed)
      return left ? Promise.resolve({ done: true, value: undefined }) : start()
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
