import { type Operator, operate } from './operate.ts'

/**
 * Changes each chunk by itself. What `change` gives `undefined` for is let go; what it throws ends the stream, and the
 * source is returned.
 *
 * @throws {TypeError} at creation, when `change` is not a function
 *
 * @example
 * const withoutReasoning = map((chunk: Chunk) => (chunk.type === 'reasoning' ? undefined : chunk))
 */
export function map<A, B = A>(change: (value: A) => B | undefined): Operator<A, B> {
  if (typeof change !== 'function') throw new TypeError('change must be a function from a chunk to what becomes of it')
  return operate(() => ({
    take(value, emit) {
      const changed = change(value)
      if (changed !== undefined) emit(changed)
      return undefined
    }
  }))
}
