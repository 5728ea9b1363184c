import { checkOptions } from './check-options.ts'
import type { ChunkIterator } from './chunk-iterator.ts'
import { MillraceError } from './error.ts'
import { onAbort } from './signal.ts'

/**
 * A stream that several readers follow, each from its own offset: the late one gets what was, then what comes. It serves
 * the cache's late joiners, and resuming a stream.
 *
 * Bound: past `maxSize` the older half is let go (half, so that letting go costs little an item; the newest item always
 * stays). A reader that still needed it, or a new one that starts there, gets `protocol` with `reason: 'too-large'`.
 * `whole` says whether the beginning is still there.
 */
export interface StreamLog<T> {
  /** @throws {TypeError} after `end` or `fail` */
  append(item: T): void
  end(): void
  /** Ends the log with an error, which every reader gets behind the last item. The first of `end` and `fail` counts. */
  fail(error: unknown): void
  /**
   * Reads from item number `offset` on; an offset ahead of the log waits for its item.
   *
   * @throws {TypeError} when `offset` is not a whole number from 0 up. The reader throws what `fail` was given, or
   * `signal.reason`
   */
  follow(offset: number, options?: FollowOptions): LogReader<T>
  /** Items appended so far, those let go included. */
  readonly length: number
  /** Nothing has been let go. */
  readonly whole: boolean
  readonly state: 'open' | 'ended' | 'failed'
  /** The items still held. Do not change it. */
  readonly items: readonly T[]
}

/** Reads one by one or all that is there at once, and can be iterated. */
export type LogReader<T> = ChunkIterator<T> & AsyncIterableIterator<T, undefined>

export interface FollowOptions {
  readonly signal?: AbortSignal | undefined
  /**
   * Called whenever this reader has caught up and the log is open, so that a source can be read on demand. It may be called
   * again, by other readers too, before the source has answered.
   */
  readonly pull?: (() => void) | undefined
  /** Called once, when the reader has ended for whatever reason. A reader whose `next` was never called must `return`. */
  readonly onLeave?: (() => void) | undefined
}

export interface LogOptions<T> {
  /** The size of an item, in the unit of `maxSize`; the same each time it is asked. @default every item is 1 */
  readonly sizeOf?: ((item: T) => number) | undefined
  /** @default 65536 */
  readonly maxSize?: number | undefined
}

/**
 * Makes an empty log. It owns nothing that must be closed: without readers it is plain memory.
 *
 * @throws {TypeError} when `maxSize` is not above 0
 *
 * @example
 * const log = createLog<Chunk>({ maxSize: 1000 })
 * log.append({ type: 'text', text: 'Hello' })
 * log.end()
 * for await (const chunk of log.follow(0)) console.log(chunk)
 */
export function createLog<T>(options: LogOptions<T> = {}): StreamLog<T> {
  checkOptions<LogOptions<T>>('createLog', options, { sizeOf: 1, maxSize: 1 })
  const { sizeOf = () => 1, maxSize = 65_536 } = options
  if (!(maxSize > 0)) throw new TypeError(`maxSize must be a number above 0, not ${maxSize}`)
  let items: T[] = []
  let first = 0 // number of items[0]
  let size = 0
  let state: StreamLog<T>['state'] = 'open'
  let failure: unknown
  // One entry for each pending read, taken out when it ends: a shared promise would keep every reader that gave up.
  const waiting = new Set<() => void>()

  function wake(): void {
    for (const resume of waiting) resume()
  }

  function shrink(): void {
    let dropped = 0
    while (size > maxSize / 2 && dropped < items.length - 1) size -= sizeOf(items[dropped++] as T)
    items = items.slice(dropped)
    first += dropped
  }

  function close(as: 'ended' | 'failed', error?: unknown): void {
    if (state !== 'open') return
    state = as
    failure = error
    wake()
  }

  function tooLate(): MillraceError<'protocol'> {
    return new MillraceError('protocol', `the log holds at most ${maxSize} (maxSize) and has let this position go`, {
      details: { reason: 'too-large' }
    })
  }

  function follow(offset: number, { signal, pull, onLeave }: FollowOptions = {}): LogReader<T> {
    if (!Number.isSafeInteger(offset) || offset < 0) {
      throw new TypeError(`offset must be a whole number from 0 up, not ${offset}`)
    }
    let at = offset
    let left = false
    const pending = new Set<() => void>() // this reader's own part of `waiting`
    function leave(): void {
      if (left) return
      left = true
      for (const resume of pending) resume()
      onLeave?.()
    }
    function fail(error: unknown): never {
      leave()
      throw error
    }
    function news(): Promise<void> {
      return new Promise((resolve) => {
        const off = onAbort(signal, resume)
        function resume(): void {
          off()
          waiting.delete(resume)
          pending.delete(resume)
          resolve()
        }
        waiting.add(resume)
        pending.add(resume)
      })
    }
    /** What `take` takes from the items as soon as there are any, in the same turn; `undefined` at the end. */
    async function read<R>(take: () => R): Promise<R | undefined> {
      for (;;) {
        if (left) return undefined
        if (signal?.aborted === true) fail(signal.reason)
        if (at < first) fail(tooLate())
        if (at < first + items.length) return take()
        if (state === 'failed') fail(failure)
        if (state === 'ended') {
          leave()
          continue
        }
        const told = news()
        try {
          pull?.()
        } catch (error) {
          fail(error)
        }
        await told
      }
    }
    function one(): IteratorResult<T, undefined> {
      return { done: false, value: items[at++ - first] as T }
    }
    function all(): readonly T[] {
      const batch = items.slice(at - first)
      at = first + items.length
      if (state === 'ended') leave()
      return batch
    }
    const done: IteratorResult<T, undefined> = { done: true, value: undefined }
    return {
      next: async () => (await read(one)) ?? done,
      nextBatch: () => read(all),
      get ended() {
        return left
      },
      async return() {
        leave()
        return done
      },
      [Symbol.asyncIterator]() {
        return this
      }
    }
  }

  return {
    append(item) {
      if (state !== 'open') throw new TypeError('the log has ended: nothing can be appended')
      items.push(item)
      size += sizeOf(item)
      if (size > maxSize) shrink()
      wake()
    },
    end: () => close('ended'),
    fail: (error) => close('failed', error),
    follow,
    get length() {
      return first + items.length
    },
    get whole() {
      return first === 0
    },
    get state() {
      return state
    },
    get items() {
      return items
    }
  }
}
