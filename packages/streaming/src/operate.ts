/** From one stream to another: what `pipe` composes. Each iteration has a state of its own. */
export type Operator<A, B = A> = (source: AsyncIterable<A>) => AsyncIterable<B>

/** What an operator does with one stream, without a word of promises: the waiting is done here, once for all. */
export interface Step<A, B> {
  /** Takes one value and emits any number. `'stop'` ends the stream: the source is returned, what was emitted delivered. */
  take(value: A, emit: (value: B) => void): 'stop' | undefined
  /** The source has ended or failed: emits what is still held. */
  flush?(emit: (value: B) => void): void
  /** When something held must be out, in milliseconds of `performance.now()`; undefined when nothing is held. */
  readonly dueAt?: number | undefined
  /** `dueAt` has come: emits what it can, and moves `dueAt`. */
  overdue?(emit: (value: B) => void): void
}

/**
 * The operator that runs `start()` on each stream. Written by hand, because a generator queues `return()` behind a pending
 * `next()`: here leaving reaches the source at once. The source is read only while the reader waits, so nothing piles up;
 * what it had given before an error is delivered before the error.
 */
export function operate<A, B>(start: () => Step<A, B>): Operator<A, B> {
  return (source) => ({ [Symbol.asyncIterator]: () => iterate(source[Symbol.asyncIterator](), start()) })
}

type Result<B> = IteratorResult<B, undefined>
const done: IteratorReturnResult<undefined> = Object.freeze({ done: true, value: undefined })

function iterate<A, B>(source: AsyncIterator<A>, step: Step<A, B>): AsyncIterator<B, undefined> {
  const ready: B[] = []
  const emit = (value: B): void => void ready.push(value)
  let waiting: PromiseWithResolvers<Result<B>> | undefined
  let reading = false
  let state: 'open' | 'ended' | 'failed' = 'open'
  let failure: unknown
  let closing: Promise<unknown> | undefined
  let timer: NodeJS.Timeout | undefined

  function read(): void {
    reading = true
    source.next().then(took, failed)
  }

  function took(result: IteratorResult<A>): void {
    reading = false
    if (state !== 'open') return // the reader left while it was on its way
    if (result.done === true) return end('ended')
    try {
      if (step.take(result.value, emit) === 'stop') stop()
    } catch (error) {
      stop()
      return end('failed', error)
    }
    settle()
  }

  function failed(error: unknown): void {
    reading = false
    // Of a read that the reader no longer waits for nobody can be told.
    if (state === 'open') end('failed', error)
  }

  function end(as: 'ended' | 'failed', error?: unknown): void {
    state = as
    failure = error
    clearTimeout(timer)
    step.flush?.(emit)
    settle()
  }

  /** Ends on purpose. That the source could not close is told at the end, behind all that was delivered. */
  function stop(): void {
    state = 'ended'
    clearTimeout(timer)
    closing = Promise.resolve(source.return?.())
    closing.catch(() => {}) // heard when the reader gets there
  }

  /** Gives the waiting reader what there is, or goes for more. */
  function settle(): void {
    if (waiting === undefined) return
    if (ready.length > 0 || state !== 'open') {
      const reader = waiting
      waiting = undefined
      return reader.resolve(take())
    }
    if (!reading) read()
    if (timer === undefined && step.dueAt !== undefined) arm(step.dueAt - performance.now())
  }

  function take(): Result<B> | Promise<Result<B>> {
    if (ready.length > 0) return { done: false, value: ready.shift() as B }
    if (state === 'failed') {
      state = 'ended'
      return Promise.reject(failure)
    }
    return closing === undefined ? done : closing.then(() => done)
  }

  // One timer for many chunks: it is not moved at each, it looks when it fires and sleeps for the rest.
  function arm(ms: number): void {
    timer = setTimeout(fire, Math.max(1, Math.ceil(ms)))
  }

  function fire(): void {
    timer = undefined
    if (waiting === undefined) return // the reader's turn; `next` looks at the clock itself
    expire()
    settle()
  }

  function expire(): void {
    if (step.dueAt !== undefined && performance.now() >= step.dueAt) step.overdue?.(emit)
  }

  /** A reader that does not wait for its reads gets them in order. */
  async function nextAfter(earlier: Promise<unknown>): Promise<Result<B>> {
    await Promise.allSettled([earlier])
    return next()
  }

  function next(): Promise<Result<B>> {
    if (waiting !== undefined) return nextAfter(waiting.promise)
    if (ready.length === 0 && state === 'open') expire()
    if (ready.length > 0 || state !== 'open') return Promise.resolve(take())
    const { promise } = (waiting = Promise.withResolvers())
    settle()
    return promise
  }

  return {
    next,
    async return() {
      const open = state === 'open'
      state = 'ended'
      ready.length = 0
      clearTimeout(timer)
      waiting?.resolve(done)
      waiting = undefined
      const closed = open ? source.return?.() : closing
      // A generator answers `return` only after the read it is busy with, which may be never: then it is not waited for,
      // and its failure has no hearer left. `withOperators` aborts such a read.
      if (open && reading) closed?.catch(() => {})
      else await closed
      return done
    }
  }
}
