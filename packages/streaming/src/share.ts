import { checkSource, shown } from './check-source.ts'
import { distribute, type QueueReader } from './distribute.ts'
import { checkQueueBound, type QueueOptions } from './queue-bound.ts'

export interface ShareOptions<T> extends QueueOptions<T> {
  /**
   * `wait`: nobody gets more than the slowest has room for. `fail`: a reader for whom there is no room is given what is
   * held for it, then `queue-full`, and the others go on without it.
   *
   * @default 'wait'
   */
  readonly whenFull?: 'wait' | 'fail' | undefined
}

/** One of the readers of a shared stream. It can be iterated once. */
export type SharedReader<T> = QueueReader<T>

/** As many as were asked for, where the number is known to the compiler. */
export type SharedReaders<T, N extends number, Known extends readonly SharedReader<T>[] = readonly []> = number extends N
  ? readonly SharedReader<T>[]
  : Known['length'] extends N
    ? Known
    : SharedReaders<T, N, readonly [...Known, SharedReader<T>]>

/**
 * Gives one stream to several readers. It is read as they ask for it, and the slowest rules: the fastest is ahead of it by
 * `maxItems` and `maxSize` at most. Each item is held until the slowest has it and no longer, so a stream of any length
 * runs in flat memory, which `tee` does not.
 *
 * A reader that has left no longer counts, and the last that leaves returns the source. One that never begins holds the
 * others back once they are at the bound, and readers that are read one after the other wait for ever there: read them
 * side by side, `return()` those that are not needed, or set `whenFull: 'fail'`. An error reaches each behind what it has.
 *
 * Bound: `maxItems` and `maxSize`, and what one read of the source brings beyond them, once for all readers: a single item,
 * or the batch of a source that gives batches.
 *
 * @throws {TypeError} when an argument is wrong. A reader throws `queue-full` where `whenFull` is `fail`
 *
 * @example
 * const [page, log] = share(adapter.stream(request), 2)
 * await Promise.all([send(page), save(log)])
 */
export function share<T, const N extends number>(
  source: AsyncIterable<T>,
  readers: N,
  options: ShareOptions<T> = {}
): SharedReaders<T, N> {
  checkSource(source, 'share')
  if (!(Number.isSafeInteger(readers) && readers > 0)) {
    throw new TypeError(`share takes the number of readers, a whole number above 0, not ${shown(readers)}`)
  }
  const bound = checkQueueBound('share', options)
  return distribute(source, readers, bound, 'on-demand') as SharedReaders<T, N>
}
