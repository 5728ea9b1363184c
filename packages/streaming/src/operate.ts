import { type ChatRequest, type ChunkIterator, hasEnded, nextBatch } from '@millrace/core'
import { checkSource } from './check-source.ts'
import { leave, leaveUnheard } from './leave.ts'
import { ReadLine } from './read-line.ts'

/**
 * From one stream to another: what `pipe` composes. Each iteration has a state of its own. As a layer (`withOperators`) it is
 * told the request too.
 */
export type Operator<A, B = A> = (source: AsyncIterable<A>, request?: ChatRequest) => AsyncIterable<B>

/** What an operator does with one stream, without a word of promises: the waiting is done here, once for all. */
export interface Step<A, B> {
  /** Takes one value and emits any number. `'stop'` ends the stream: the source is returned, what was emitted delivered. */
  take(value: A, emit: (value: B) => void): 'stop' | undefined
  /** Behind `'stop'`: the last words. `behind` came with the value that stopped, and is not taken. */
  stopped?(behind: readonly A[], emit: (value: B) => void): void
  /** The source has ended or failed: emits what is still held. */
  flush?(emit: (value: B) => void): void
  /** When something held must be out, in milliseconds of `performance.now()`; undefined when nothing is held. */
  readonly dueAt?: number | undefined
  /** `dueAt` has come: emits what it can, and moves `dueAt`. */
  overdue?(emit: (value: B) => void): void
  /** A read of the source begins, for a reader that waits. */
  waiting?(): void
  /** The reader has been given something: it is its turn. */
  resting?(): void
  /** The stream is over, however it came to that. Called once, and never for a stream that nobody has read. */
  close?(): void
}

/** What a step can do to its stream from outside of `take`: at a signal, at a clock. */
export interface Running {
  readonly request: ChatRequest | undefined
  /**
   * Ends the stream at once: the reader gets `error`, even during a read, and nothing of what was ready; the source is
   * returned. Of no effect once the stream is over.
   */
  fail(error: unknown): void
}

/**
 * The operator that runs `start()` on each stream, with its first read. Written by hand, because a generator queues
 * `return()` behind a pending `next()`: here leaving reaches the source at once. The source is read only while the reader
 * waits, so nothing piles up, and in batches, where it offers that; what it had given before an error is delivered before
 * the error.
 */
export function operate<A, B>(start: (running: Running) => Step<A, B>): Operator<A, B> {
  return (source, request) => {
    checkSource(source)
    return { [Symbol.asyncIterator]: () => iterate(source[Symbol.asyncIterator](), start, request) }
  }
}

type Result<B> = IteratorResult<B, undefined>
const done: IteratorReturnResult<undefined> = Object.freeze({ done: true, value: undefined })

/** A read that waits: for one value, or for all there are. */
type Reader<B> = { fail(error: unknown): void; behind: Reader<B> | undefined } & (
  | { readonly wants: 'one'; give(result: Result<B> | Promise<Result<B>>): void }
  | { readonly wants: 'all'; give(batch: readonly B[] | undefined | Promise<undefined>): void }
)

function iterate<A, B>(
  source: AsyncIterator<A>,
  start: (running: Running) => Step<A, B>,
  request: ChatRequest | undefined
): ChunkIterator<B> {
  let step: Step<A, B> | undefined
  let ready: B[] = []
  let at = 0
  const emit = (value: B): void => void ready.push(value)
  const line = new ReadLine<Reader<B>>()
  let reading = false
  let state: 'open' | 'ended' | 'failed' = 'open'
  let failure: unknown
  let closing: Promise<unknown> | undefined
  let timer: NodeJS.Timeout | undefined

  function read(): void {
    reading = true
    try {
      step ??= start({ request, fail })
      step.waiting?.()
      if (state === 'open') nextBatch(source).then(took, failed)
    } catch (error) {
      failed(error) // a source may throw where it should reject
    }
  }

  function took(batch: readonly A[] | undefined): void {
    reading = false
    if (state !== 'open') return // the reader left while it was on its way
    if (batch === undefined) return end('ended')
    try {
      let taken = 0
      for (const value of batch) {
        taken++
        if (step?.take(value, emit) === 'stop') {
          stop()
          step.stopped?.(batch.slice(taken), emit)
          return settle()
        }
      }
    } catch (error) {
      if (state !== 'open') return tell(error) // the last words; what is held is not wanted any more
      stop()
      return end('failed', error)
    }
    if (hasEnded(source)) end('ended')
    else {
      if (ready.length === 0) expire() // a source that is never silent lets no timer fire
      settle()
    }
  }

  function failed(error: unknown): void {
    reading = false
    // Of a read that the reader no longer waits for nobody can be told.
    if (state === 'open') end('failed', error)
  }

  function over(as: 'ended' | 'failed'): void {
    const wasOpen = state === 'open'
    state = as
    clearTimeout(timer)
    if (wasOpen) step?.close?.()
  }

  function end(as: 'ended' | 'failed', error?: unknown): void {
    over(as)
    failure = error
    try {
      step?.flush?.(emit)
    } catch (thrown) {
      if (as === 'ended') failure = thrown // else the first error is told, and what was held is lost
      state = 'failed'
    }
    settle()
  }

  function tell(error: unknown): void {
    state = 'failed'
    failure = error
    settle()
  }

  /** Ends on purpose. That the source could not close is told at the end, behind all that was delivered. */
  function stop(): void {
    over('ended')
    closing = leave(source)
    closing.catch(() => {}) // heard when the reader gets there
  }

  function fail(error: unknown): void {
    if (state !== 'open') return
    over('failed')
    failure = error
    clear()
    leaveUnheard(source)
    settle()
  }

  /** Gives the waiting reads what there is, or goes for more. */
  function settle(): void {
    while (line.first !== undefined && (at < ready.length || state !== 'open')) {
      const served = line.leave() as Reader<B>
      step?.resting?.()
      serve(served)
    }
    if (line.first === undefined) return
    clear() // all of it has been handed over
    if (!reading) read()
    if (timer === undefined && line.first !== undefined && step?.dueAt !== undefined) arm(step.dueAt - performance.now())
  }

  function serve(to: Reader<B>): void {
    if (at < ready.length) {
      if (to.wants === 'one') to.give({ done: false, value: ready[at++] as B })
      else to.give(rest())
    } else if (state === 'failed') {
      state = 'ended'
      to.fail(failure)
    } else if (to.wants === 'one') to.give(closing === undefined ? done : closing.then(() => done))
    else to.give(closing?.then(() => undefined))
  }

  function rest(): readonly B[] {
    const batch = at === 0 ? ready : ready.slice(at)
    clear()
    return batch
  }

  function clear(): void {
    ready = []
    at = 0
  }

  // One timer for many chunks: it is not moved at each, it looks when it fires and sleeps for the rest.
  function arm(ms: number): void {
    timer = setTimeout(fire, Math.max(1, Math.ceil(ms)))
  }

  function fire(): void {
    timer = undefined
    if (line.first === undefined) return // the reader's turn; the next read looks at the clock itself
    expire()
    settle()
  }

  function expire(): void {
    if (step?.dueAt !== undefined && performance.now() >= step.dueAt) step.overdue?.(emit)
  }

  function isReady(): boolean {
    if (at < ready.length) return true
    if (state === 'open') expire()
    return at < ready.length
  }

  /** A reader that does not wait for its reads gets them in order. */
  function nextOne(): Promise<Result<B>> {
    if (line.first === undefined) {
      if (isReady()) return Promise.resolve({ done: false, value: ready[at++] as B })
      clear()
    }
    const { promise, resolve, reject } = Promise.withResolvers<Result<B>>()
    wait({ wants: 'one', give: resolve, fail: reject, behind: undefined })
    return promise
  }

  function nextAll(): Promise<readonly B[] | undefined> {
    if (line.first === undefined) {
      if (isReady()) return Promise.resolve(rest())
      clear()
    }
    const { promise, resolve, reject } = Promise.withResolvers<readonly B[] | undefined>()
    wait({ wants: 'all', give: resolve, fail: reject, behind: undefined })
    return promise
  }

  function wait(reader: Reader<B>): void {
    line.join(reader)
    if (line.first === reader) settle()
  }

  return {
    next: nextOne,
    nextBatch: nextAll,
    get ended() {
      return state === 'ended' && at === ready.length && closing === undefined
    },
    async return() {
      const wasOpen = state === 'open'
      over('ended')
      clear()
      for (let left = line.leave(); left !== undefined; left = line.leave()) {
        if (left.wants === 'one') left.give(done)
        else left.give(undefined)
      }
      // A busy generator is not waited for; `withOperators` aborts such a read.
      if (wasOpen && reading) leaveUnheard(source)
      else await (wasOpen ? leave(source) : closing)
      return done
    }
  }
}
