import { MillraceError } from './error.ts'
import { abortable } from './signal.ts'

/**
 * A stream that several readers follow, each from its own offset: the late one gets what was, then what comes. It serves
 * the cache's late joiners, and resuming a stream.
 *
 * Bound: past `maxSize` the older half is let go (half, so that letting go costs little an item); a reader that still needed them, or a new one that starts there, gets
 * `protocol` with `reason: 'too-large'`. `whole` says whether the beginning is still there.
 */
export interface StreamLog<T> {
  append(item: T): void
  end(): void
  fail(error: unknown): void
  /**
   * Reads from item number `offset` on. `pull` is called whenever the reader has caught up and the log is open, so that
   * a source can be read on demand.
   *
   * @throws what `fail` was given; `signal.reason`
   */
  follow(offset: number, options?: FollowOptions): AsyncIterableIterator<T, undefined>
  /** Items appended so far, those let go included. */
  readonly length: number
  /** Nothing has been let go. */
  readonly whole: boolean
  readonly state: 'open' | 'ended' | 'failed'
  /** The items still held. Do not change it. */
  readonly items: readonly T[]
}

export interface FollowOptions {
  readonly signal?: AbortSignal | undefined
  readonly pull?: (() => void) | undefined
  /** Called once, when the reader has ended for whatever reason. */
  readonly onLeave?: (() => void) | undefined
}

export interface LogOptions<T> {
  /** The size of an item, in the unit of `maxSize`. @default every item is 1 */
  readonly sizeOf?: ((item: T) => number) | undefined
  /** @default 65536 */
  readonly maxSize?: number | undefined
}

export function createLog<T>({ sizeOf = () => 1, maxSize = 65_536 }: LogOptions<T> = {}): StreamLog<T> {
  if (!(maxSize > 0)) throw new TypeError(`maxSize must be a number above 0, not ${maxSize}`)
  let items: T[] = []
  let first = 0 // number of items[0]
  let size = 0
  let state: StreamLog<T>['state'] = 'open'
  let failure: unknown
  let news = Promise.withResolvers<void>()

  function wake(): void {
    const told = news
    news = Promise.withResolvers<void>()
    told.resolve()
  }

  function shrink(): void {
    let dropped = 0
    while (size > maxSize / 2 && dropped < items.length) size -= sizeOf(items[dropped++] as T)
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

  function follow(offset: number, { signal, pull, onLeave }: FollowOptions = {}): AsyncIterableIterator<T, undefined> {
    let at = offset
    let left = false
    function leave(): void {
      if (left) return
      left = true
      onLeave?.()
    }
    function fail(error: unknown): never {
      leave()
      throw error
    }
    async function next(): Promise<IteratorResult<T, undefined>> {
      for (;;) {
        if (left) return { done: true, value: undefined }
        if (signal?.aborted === true) fail(signal.reason)
        if (at < first) fail(tooLate())
        if (at < first + items.length) return { done: false, value: items[at++ - first] as T }
        if (state === 'failed') fail(failure)
        if (state === 'ended') {
          leave()
          continue
        }
        const told = news.promise
        pull?.()
        // A source that answers at once needs no wait.
        if (told !== news.promise) continue
        try {
          await abortable(told, signal)
        } catch (error) {
          fail(error)
        }
      }
    }
    return {
      next,
      async return() {
        leave()
        wake()
        return { done: true, value: undefined }
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
