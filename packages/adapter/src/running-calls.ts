import {
  type CallOptions,
  type CallTally,
  type Chunk,
  ChunkBatches,
  clampTimer,
  type Deadline,
  hasEnded,
  type Layer,
  linkAbort,
  MillraceError,
  nextBatch,
  onAbort,
  type Provider,
  startDeadline
} from '@millrace/core'

/** The calls that are running, so that closing can wait for them and then end them. */
export interface RunningCalls {
  readonly layer: Layer<Provider>
  readonly size: number
  /** Refuses new calls, waits up to `graceMs`, then aborts the rest with `closed`. */
  close(graceMs: number): Promise<void>
}

/**
 * Holds every call to its total deadline, from the first pull to the last chunk, cache and queues included. The read is
 * raced: the call ends in time even when what is below ignores its signal.
 */
export function createRunningCalls(defaultTotalMs: number): RunningCalls {
  // A list through the calls, links cleared when one leaves. A Set keeps ended calls in its discarded tables until the next
  // full collection, and all they hold with them: that was seen to cost 4 us a call.
  let first: Call | undefined
  let size = 0
  let closed = false
  let idle: (() => void) | undefined

  function enter(call: Call): void {
    size++
    call.after = first
    if (first !== undefined) first.before = call
    first = call
  }
  function left(call: Call): void {
    size--
    if (call.before === undefined) first = call.after
    else call.before.after = call.after
    if (call.after !== undefined) call.after.before = call.before
    call.before = call.after = undefined
    if (size === 0) idle?.()
  }

  return {
    layer: (next) => (request, options) => ({
      [Symbol.asyncIterator]() {
        if (closed) throw closedError()
        const totalMs = options.timeouts?.totalMs ?? defaultTotalMs
        const call = new Call((inner) => next(request, inner), options, totalMs, left)
        enter(call)
        call.follow(options.signal)
        return call
      }
    }),
    get size() {
      return size
    },
    async close(graceMs) {
      closed = true
      if (size === 0) return
      const { promise, resolve } = Promise.withResolvers<void>()
      idle = resolve
      const timer = setTimeout(() => {
        for (let call = first; call !== undefined; call = first) call.end(closedError())
      }, clampTimer(graceMs))
      await promise
      clearTimeout(timer)
    }
  }
}

function closedError(): MillraceError<'closed'> {
  return new MillraceError('closed', 'the adapter is closed', { details: {} })
}

/** One call: the outermost stream that works with signals. It aborts first and returns second. */
class Call extends ChunkBatches {
  before: Call | undefined
  after: Call | undefined
  readonly #linked = linkAbort()
  #offAbort: (() => void) | undefined
  readonly #deadline: Deadline
  readonly #source: AsyncIterator<Chunk>
  readonly #left: (call: Call) => void
  readonly #tally: CallTally | undefined
  #pending: PromiseWithResolvers<readonly Chunk[] | undefined> | undefined
  #failure: { readonly error: unknown } | undefined

  constructor(
    start: (options: CallOptions) => AsyncIterable<Chunk>,
    options: CallOptions,
    totalMs: number,
    left: (call: Call) => void
  ) {
    super()
    this.#left = left
    this.#tally = options.tally
    const deadline = startDeadline('total', totalMs, (error) => this.end(error))
    this.#deadline = deadline
    this.#source = start({ ...options, signal: this.#linked.signal, deadline })[Symbol.asyncIterator]()
  }

  /** Ends the call when `signal` aborts, or at once if it has. */
  follow(signal: AbortSignal | undefined): void {
    if (signal !== undefined) this.#offAbort = onAbort(signal, (reason) => this.end(reason))
  }

  /** Ends the call with `error`, whatever it waits for. */
  end(error: unknown): void {
    if (this.over) return
    this.#failure = { error }
    this.clear()
    this.#linked.abort(error)
    this.#pending?.reject(error)
    this.#pending = undefined
    this.#leave()
    this.#returnSource()
    this.#tally?.ended(error)
  }

  protected pull(): Promise<readonly Chunk[] | undefined> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure.error)
    if (this.over) return Promise.resolve(undefined)
    // One read at a time: a second pull waits for the first.
    if (this.#pending !== undefined) {
      const again = (): Promise<readonly Chunk[] | undefined> => this.pull()
      return this.#pending.promise.then(again, again)
    }
    const pending = Promise.withResolvers<readonly Chunk[] | undefined>()
    this.#pending = pending
    try {
      nextBatch(this.#source).then(this.#took, this.#failed)
    } catch (error) {
      this.#failed(error)
    }
    return pending.promise
  }

  // Made once a call, not once a batch. After an abort or a return nobody is pending any more.
  readonly #took = (batch: readonly Chunk[] | undefined): void => {
    const pending = this.#pending
    this.#pending = undefined
    if (batch === undefined || hasEnded(this.#source)) this.#leave()
    pending?.resolve(batch)
  }
  readonly #failed = (error: unknown): void => {
    const pending = this.#pending
    this.#pending = undefined
    this.#leave()
    pending?.reject(error)
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    this.clear()
    if (this.over) return done
    const pending = this.#pending
    this.#pending = undefined
    this.#leave()
    if (pending === undefined) {
      // Without an abort: a source that has said all it had may still free its socket in peace.
      await this.#source.return?.()
      return done
    }
    pending.resolve(undefined)
    this.#linked.abort(new MillraceError('closed', 'the reader left the stream', { details: {} }))
    this.#returnSource()
    return done
  }

  /** What is below may be waiting for something that knows no signal; whatever it still throws is the abort's echo. */
  #returnSource(): void {
    Promise.resolve(this.#source.return?.()).catch(() => {})
  }

  #leave(): void {
    if (this.over) return
    this.over = true
    this.#deadline[Symbol.dispose]()
    this.#offAbort?.()
    this.#left(this)
  }
}

const done = { done: true, value: undefined } as const
