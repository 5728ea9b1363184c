import { onAbort } from '@millrace/core'
import type { Outcome } from './outcome.ts'
import { wholeNumber } from './queue-options.ts'

/** How far a run is. Counts are of items. */
export interface QueueProgress {
  /** Items read from the input so far. */
  readonly pulled: number
  /** Items that wait for a worker or are with one. */
  readonly waiting: number
  readonly fulfilled: number
  readonly rejected: number
  /** Since the first outcome was asked for; stands still once the run has ended. */
  readonly elapsedMs: number
  /** No further outcome settles. */
  readonly ended: boolean
}

export interface QueueRunOptions {
  /**
   * Items that have been read from the input and whose outcome has not been taken: no more than so many lie in Redis and in
   * memory. Give at least the concurrency of all workers together. @default 100
   */
  readonly window?: number | undefined
  /** In which order outcomes come: as they are known, or as the items were. @default 'completion' */
  readonly order?: 'completion' | 'input' | undefined
  /**
   * Aborting it ends the run: waiting items are taken out of the queue, the signals of running ones abort, every item that was
   * read is yielded as rejected with `signal.reason`, then the loop throws that reason.
   */
  readonly signal?: AbortSignal | undefined
  /** Told how far the run is, at most every 100 ms and once at the end. */
  readonly onProgress?: ((progress: QueueProgress) => void) | undefined
}

/** An item that has been read and whose result is not known. */
export interface Pending {
  /** As it is sent: the item itself may change once it was read. */
  readonly text: string
  /** It is in the queue, as far as we know. */
  submitted: boolean
  /** How often it failed for no fault of its own. */
  failures: number
}

/** The producer's side of a run. */
export interface RunDoor<I> {
  /** The first outcome was asked for. */
  begin(): void
  /** @throws {MillraceError} `invalid-request` for an item that cannot be sent: its outcome */
  pack(item: I, index: number): string
  submit(index: number, pending: Pending): void
  /** Nobody waits for these any more. What is being submitted is not among them. */
  cancel(indexes: readonly number[]): void
  /** No further outcome will be asked for. */
  end(): void
  /** An error that nobody can be told. */
  count(): void
}

export interface QueueRun<O> {
  readonly outcomes: AsyncIterableIterator<Outcome<O>>
  readonly pending: ReadonlyMap<number, Pending>
  /** What comes for an item that is not pending any more is dropped, and false. */
  settle(outcome: Outcome<O>): boolean
  /** Ends the run: what is known is yielded, then this is thrown. */
  fail(error: unknown): void
}

const progressMs = 100

export function createRun<I, O>(
  items: Iterable<I> | AsyncIterable<I>,
  { window = 100, order = 'completion', signal, onProgress }: QueueRunOptions,
  door: RunDoor<I>
): QueueRun<O> {
  checkItems(items)
  wholeNumber('window', window, 1)
  if (order !== 'completion' && order !== 'input') throw new TypeError("order must be 'completion' or 'input'")
  const pending = new Map<number, Pending>()
  const ready: Outcome<O>[] = []
  /** Of order `input`: known, but one before it is not. */
  const held = new Map<number, Outcome<O>>()
  const readers: PromiseWithResolvers<IteratorResult<Outcome<O>>>[] = []
  let source: Iterator<I> | AsyncIterator<I> | undefined
  let off = (): void => {}
  let startedAt: number | undefined
  let endedAt: number | undefined
  let toldAt = Number.NEGATIVE_INFINITY
  let pulled = 0
  let following = 0
  let fulfilled = 0
  let rejected = 0
  let exhausted = false
  let filling = false
  let failure: { readonly error: unknown } | undefined

  function begin(): void {
    startedAt = performance.now()
    door.begin()
    try {
      source = Symbol.asyncIterator in items ? items[Symbol.asyncIterator]() : items[Symbol.iterator]()
    } catch (error) {
      fail(error)
    }
    off = onAbort(signal, abort)
  }

  async function fill(): Promise<void> {
    if (filling) return
    filling = true
    while (!exhausted && pending.size + ready.length + held.size < window) {
      let item: I
      try {
        const step = await (source as AsyncIterator<I>).next()
        // It may have ended while the input was asked.
        if (exhausted) break
        if (step.done === true) {
          exhausted = true
          break
        }
        item = step.value
      } catch (error) {
        if (!exhausted) failure ??= { error }
        exhausted = true
        break
      }
      take(item)
    }
    filling = false
    if (exhausted) serve()
  }

  function take(item: I): void {
    const index = pulled++
    const one = { text: '', submitted: false, failures: 0 }
    pending.set(index, one)
    try {
      one.text = door.pack(item, index)
    } catch (reason) {
      settle({ index, status: 'rejected', reason })
      return
    }
    door.submit(index, one)
  }

  function settle(outcome: Outcome<O>): boolean {
    if (!pending.delete(outcome.index)) return false
    if (outcome.status === 'fulfilled') fulfilled++
    else rejected++
    if (order === 'completion') ready.push(outcome)
    else {
      held.set(outcome.index, outcome)
      for (let next = held.get(following); next !== undefined; next = held.get(following)) {
        held.delete(following++)
        ready.push(next)
      }
    }
    if (performance.now() - toldAt >= progressMs) tell()
    serve()
    return true
  }

  /** Hands out what is there, ends what is over, and reads on where there is room. */
  function serve(): void {
    while (readers.length > 0 && ready.length > 0) readers.shift()?.resolve({ done: false, value: ready.shift() as Outcome<O> })
    if (readers.length === 0) return
    if (!exhausted) void fill()
    else if (!filling && pending.size === 0) end()
  }

  function end(): void {
    finish()
    for (const reader of readers.splice(0)) {
      if (failure === undefined) reader.resolve({ done: true, value: undefined })
      else reader.reject(failure.error)
      failure = undefined
    }
  }

  function finish(): void {
    if (endedAt !== undefined) return
    endedAt = performance.now()
    off()
    door.end()
    tell()
  }

  /** Reads no more, and lets nobody work on what is pending. */
  function stop(): number[] {
    const submitted = [...pending].flatMap(([index, one]) => (one.submitted ? [index] : []))
    const indexes = [...pending.keys()]
    if (submitted.length > 0) door.cancel(submitted)
    if (!exhausted && source !== undefined) void release(source)
    exhausted = true
    filling = false
    return indexes
  }

  /** A generator that is asked to return waits until its pending `next` is over: so do not we. */
  async function release(input: Iterator<I> | AsyncIterator<I>): Promise<void> {
    try {
      await input.return?.()
    } catch {
      // Nobody asks for the input any more; counted.
      door.count()
    }
  }

  function abort(reason: unknown): void {
    failure ??= { error: reason }
    for (const index of stop()) settle({ index, status: 'rejected', reason })
    serve()
  }

  function fail(error: unknown): void {
    if (endedAt !== undefined) return
    failure ??= { error }
    drop()
    serve()
  }

  function drop(): void {
    stop()
    pending.clear()
    // With gaps: what is known was paid for.
    for (const outcome of [...held.values()].toSorted((a, b) => a.index - b.index)) ready.push(outcome)
    held.clear()
  }

  function tell(): void {
    if (onProgress === undefined) return
    toldAt = performance.now()
    try {
      onProgress({
        pulled,
        waiting: pending.size,
        fulfilled,
        rejected,
        elapsedMs: (endedAt ?? toldAt) - (startedAt ?? toldAt),
        ended: endedAt !== undefined
      })
    } catch {
      // The run goes on without its listener, and the failure is counted.
      door.count()
    }
  }

  return {
    pending,
    settle,
    fail,
    outcomes: {
      next() {
        if (endedAt !== undefined && ready.length === 0) return Promise.resolve({ done: true, value: undefined })
        const reader = Promise.withResolvers<IteratorResult<Outcome<O>>>()
        readers.push(reader)
        if (startedAt === undefined) begin()
        serve()
        return reader.promise
      },
      async return() {
        if (startedAt !== undefined) drop()
        ready.length = 0
        failure = undefined
        startedAt ??= performance.now()
        finish()
        end()
        return { done: true, value: undefined }
      },
      [Symbol.asyncIterator]() {
        return this
      }
    }
  }
}

function checkItems(items: unknown): void {
  if (typeof items === 'object' && items !== null && (Symbol.asyncIterator in items || Symbol.iterator in items)) return
  const told =
    items === null || items === undefined ? String(items) : typeof items === 'object' ? 'an object' : `a ${typeof items}`
  throw new TypeError(`run takes an array of items, or anything else that can be iterated, not ${told}`)
}
