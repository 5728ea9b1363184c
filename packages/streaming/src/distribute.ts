import { type ChunkIterator, hasEnded, MillraceError, nextBatch } from '@millrace/core'
import { leave, leaveUnheard } from './leave.ts'
import type { QueueBound } from './queue-bound.ts'
import { ReadLine } from './read-line.ts'

/** Reads one by one or all that is there at once, and can be iterated, once. */
export type QueueReader<T> = ChunkIterator<T> & AsyncIterableIterator<T, undefined>

/** What one read of the source gave. All queues hold the same. */
interface Batch<T> {
  readonly items: readonly T[]
  readonly size: number
}

/** A read that waits. */
interface Waiting {
  serve(): void
  fail(error: unknown): void
  behind: Waiting | undefined
}

interface Queue<T> {
  readonly reader: QueueReader<T>
  readonly waits: boolean
  /** The bound that this queue has reached. */
  readonly fullBy: 'maxItems' | 'maxSize' | undefined
  push(batch: Batch<T>): void
  /** Nothing more will come; the failure is told behind what is held. */
  close(failure?: { readonly error: unknown }): void
}

const done: IteratorReturnResult<undefined> = Object.freeze({ done: true, value: undefined })

/**
 * A source with a queue for each of its readers. It is read in batches: while a reader waits, or, `ahead`, from the first
 * read on; and not while a queue is full, if full queues are waited for. Each item is held for those who have not had it,
 * and for nobody else: a log (`createLog`) forgets by size, not by who has read, so it would keep what all have had, and
 * lose what one has not.
 */
export function distribute<T>(
  source: AsyncIterable<T>,
  count: number,
  bound: QueueBound<T>,
  reading: 'on-demand' | 'ahead'
): readonly QueueReader<T>[] {
  const { maxItems, maxSize, sizeOf, whenFull } = bound
  const all = Array.from({ length: count }, () => createQueue())
  const open = new Set(all) // those that still get what comes
  let iterator: AsyncIterator<T> | undefined
  let begun = false
  let busy = false

  function pump(): void {
    if (busy || open.size === 0 || !isWanted()) return
    if (whenFull === 'wait' && some((queue) => queue.fullBy !== undefined)) return
    busy = true
    try {
      iterator ??= source[Symbol.asyncIterator]()
      nextBatch(iterator).then(took, failed)
    } catch (error) {
      failed(error)
    }
  }

  function isWanted(): boolean {
    return reading === 'ahead' ? begun : some((queue) => queue.waits)
  }

  function some(is: (queue: Queue<T>) => boolean): boolean {
    for (const queue of open) if (is(queue)) return true
    return false
  }

  function took(items: readonly T[] | undefined): void {
    busy = false
    if (open.size === 0) return // all have left while it was on its way
    if (items === undefined) return closeAll()
    let size = 0
    try {
      for (const item of items) size += sizeOf(item)
    } catch (error) {
      leaveUnheard(iterator as AsyncIterator<T>)
      return closeAll({ error })
    }
    const batch = { items, size }
    for (const queue of open) {
      if (queue.fullBy === undefined) queue.push(batch)
      else cut(queue, queue.fullBy)
    }
    if (open.size === 0) leaveUnheard(iterator as AsyncIterator<T>)
    else if (hasEnded(iterator as AsyncIterator<T>)) closeAll()
    else pump()
  }

  function failed(error: unknown): void {
    busy = false
    closeAll({ error }) // when all have left, nobody can be told
  }

  function closeAll(failure?: { readonly error: unknown }): void {
    const told = [...open]
    open.clear()
    for (const queue of told) queue.close(failure)
  }

  function cut(queue: Queue<T>, fullBy: 'maxItems' | 'maxSize'): void {
    open.delete(queue)
    const limit = bound[fullBy]
    const error = new MillraceError('queue-full', `the reader is too slow: ${limit} (${fullBy}) is held for it at most`, {
      details: { limit }
    })
    queue.close({ error })
  }

  /** One that nobody has read has an iterator to be returned all the same. */
  async function leaveSource(): Promise<void> {
    iterator ??= source[Symbol.asyncIterator]()
    await leave(iterator)
  }

  function createQueue(): Queue<T> {
    let batches: Batch<T>[] = []
    let at = 0 // in the first batch
    let held = 0
    let size = 0
    let closed = false
    let failure: { readonly error: unknown } | undefined
    const line = new ReadLine<Waiting>()

    function one(): IteratorResult<T, undefined> {
      const first = batches[0]
      if (first === undefined) return done
      const value = first.items[at++] as T
      held--
      if (at === first.items.length) {
        batches.shift()
        size -= first.size
        at = 0
      }
      return { done: false, value }
    }

    function rest(): readonly T[] | undefined {
      const [first, second] = batches
      if (first === undefined) return undefined
      const items = at === 0 && second === undefined ? first.items : batches.flatMap((batch) => batch.items).slice(at)
      clear()
      return items
    }

    function clear(): void {
      batches = []
      at = 0
      held = 0
      size = 0
    }

    /** A reader that does not wait for its reads gets them in order. */
    function read<R>(take: () => R): Promise<R> {
      begun = true
      if (line.first === undefined && isReady()) {
        if (hasFailed()) return Promise.reject(tell())
        const taken = take()
        pump() // there is room now
        return Promise.resolve(taken)
      }
      const { promise, resolve, reject } = Promise.withResolvers<R>()
      line.join({ serve: () => resolve(take()), fail: reject, behind: undefined })
      pump()
      return promise
    }

    function isReady(): boolean {
      return held > 0 || closed
    }

    /** The failure is told once, behind what is held. */
    function hasFailed(): boolean {
      return held === 0 && failure !== undefined
    }

    function tell(): unknown {
      const error = failure?.error
      failure = undefined
      return error
    }

    function settle(): void {
      while (line.first !== undefined && isReady()) {
        const served = line.leave()
        if (hasFailed()) served?.fail(tell())
        else served?.serve()
      }
    }

    const queue: Queue<T> = {
      reader: {
        next: () => read(one),
        nextBatch: () => read(rest),
        get ended() {
          return closed && held === 0 && failure === undefined
        },
        async return() {
          const wasOpen = open.delete(queue)
          closed = true
          failure = undefined
          clear()
          settle()
          if (!wasOpen) return done
          // The others may have waited for this one. A busy source is not waited for: a generator answers behind its read.
          if (open.size > 0) pump()
          else if (busy) leaveUnheard(iterator as AsyncIterator<T>)
          else await leaveSource()
          return done
        },
        [Symbol.asyncIterator]() {
          return this
        }
      },
      get waits() {
        return line.first !== undefined
      },
      get fullBy() {
        return held >= maxItems ? 'maxItems' : size >= maxSize ? 'maxSize' : undefined
      },
      push(batch) {
        if (batch.items.length === 0) return
        batches.push(batch)
        held += batch.items.length
        size += batch.size
        settle()
      },
      close(as) {
        closed = true
        failure = as
        settle()
      }
    }
    return queue
  }

  return all.map((queue) => queue.reader)
}
