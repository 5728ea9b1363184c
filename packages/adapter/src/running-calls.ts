import {
  type CallOptions,
  type Chunk,
  type Layer,
  type LinkedAbort,
  linkAbort,
  MillraceError,
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
  const running = new Set<Call>()
  let closed = false
  let idle: (() => void) | undefined

  function left(call: Call): void {
    running.delete(call)
    if (running.size === 0) idle?.()
  }

  return {
    layer: (next) => (request, options) => ({
      [Symbol.asyncIterator]() {
        if (closed) throw closedError()
        const totalMs = options.timeouts?.totalMs ?? defaultTotalMs
        const call = new Call((inner) => next(request, inner), options, totalMs, left)
        running.add(call)
        return call
      }
    }),
    get size() {
      return running.size
    },
    async close(graceMs) {
      closed = true
      if (running.size === 0) return
      const { promise, resolve } = Promise.withResolvers<void>()
      idle = resolve
      const timer = setTimeout(() => {
        for (const call of [...running]) call.end(closedError())
      }, graceMs)
      await promise
      clearTimeout(timer)
    }
  }
}

function closedError(): MillraceError<'closed'> {
  return new MillraceError('closed', 'the adapter is closed', { details: {} })
}

const done = { done: true, value: undefined } as const

/** One call: the outermost stream that works with signals. It aborts first and returns second. */
class Call implements AsyncIterator<Chunk, undefined> {
  readonly #linked: LinkedAbort
  readonly #deadline: Disposable
  readonly #source: AsyncIterator<Chunk>
  readonly #left: (call: Call) => void
  #pending: { resolve(result: IteratorResult<Chunk, undefined>): void; reject(error: unknown): void } | undefined
  #failure: { readonly error: unknown } | undefined
  #over = false

  constructor(
    start: (options: CallOptions) => AsyncIterable<Chunk>,
    options: CallOptions,
    totalMs: number,
    left: (call: Call) => void
  ) {
    this.#left = left
    this.#linked = linkAbort(options.signal)
    this.#linked.signal.addEventListener('abort', () => this.#abort(this.#linked.signal.reason), { once: true })
    this.#deadline = startDeadline('total', totalMs, (error) => this.end(error))
    this.#source = start({ ...options, signal: this.#linked.signal })[Symbol.asyncIterator]()
    if (this.#linked.signal.aborted) this.#abort(this.#linked.signal.reason)
  }

  /** Ends the call with `error`, whatever it waits for. */
  end(error: unknown): void {
    this.#linked.abort(error)
  }

  next(): Promise<IteratorResult<Chunk, undefined>> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure.error)
    if (this.#over) return Promise.resolve(done)
    return new Promise((resolve, reject) => {
      this.#pending = { resolve, reject }
      this.#source.next().then(
        (result) => {
          this.#pending = undefined
          if (result.done === true) this.#leave()
          resolve(result.done === true ? done : result)
        },
        (error: unknown) => {
          this.#pending = undefined
          this.#leave()
          reject(error)
        }
      )
    })
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    if (this.#over) return done
    const pending = this.#pending
    this.#leave()
    if (pending === undefined) {
      // Without an abort: a source that has said all it had may still free its socket in peace.
      await this.#source.return?.()
      return done
    }
    pending.resolve(done)
    this.#linked.abort(new MillraceError('closed', 'the reader left the stream', { details: {} }))
    this.#returnSource()
    return done
  }

  #abort(error: unknown): void {
    if (this.#over) return
    this.#failure = { error }
    this.#pending?.reject(error)
    this.#leave()
    this.#returnSource()
  }

  /** What is below may be waiting for something that knows no signal; whatever it still throws is the abort's echo. */
  #returnSource(): void {
    Promise.resolve(this.#source.return?.()).catch(() => {})
  }

  #leave(): void {
    if (this.#over) return
    this.#over = true
    this.#deadline[Symbol.dispose]()
    this.#linked[Symbol.dispose]()
    this.#left(this)
  }
}
