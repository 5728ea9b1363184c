import { checkNoSource, checkSource } from './check-source.ts'
import { distribute, type QueueReader } from './distribute.ts'
import type { Operator } from './operate.ts'
import { checkQueueBound, type QueueOptions } from './queue-bound.ts'

export interface BufferedOptions<T> extends QueueOptions<T> {
  /**
   * `wait`: the source is not read until there is room (back-pressure). `fail`: it is read on, and the first item that finds
   * no room ends the stream with `queue-full`, behind what is held: for a source that must not wait.
   *
   * @default 'wait'
   */
  readonly whenFull?: 'wait' | 'fail' | undefined
}

/**
 * Reads a stream of anything ahead of its reader, up to a bound, from the first read on. An error comes behind what was
 * read before it. Leaving ends the reading ahead and returns the source; it does not wait for a read that is on its way.
 *
 * Bound: `maxItems` and `maxSize`, and what one read of the source brings beyond them: a single item, or the batch of a
 * source that gives batches.
 *
 * @throws {TypeError} at creation, when an option is wrong. The stream throws `queue-full` where `whenFull` is `fail`
 *
 * @example
 * for await (const chunk of pipe(adapter.stream(request), buffered({ maxItems: 100 }))) await saveSlowly(chunk)
 */
export function buffered<T>(options: BufferedOptions<T> = {}): Operator<T> {
  checkNoSource('buffered', options)
  const bound = checkQueueBound('buffered', options)
  return (source) => {
    checkSource(source)
    return { [Symbol.asyncIterator]: () => distribute(source, 1, bound, 'ahead')[0] as QueueReader<T> }
  }
}
