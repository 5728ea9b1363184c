/**
 * A signal that can be aborted by itself and also follows `source`. Combined by hand: one listener added, one removed by
 * dispose. `AbortSignal.any` and `AbortSignal.timeout` lose aborts under garbage collection on current Node versions and
 * keep what they combine alive (nodejs/node issues on both; a soak of 10,000 calls held hundreds of megabytes).
 */
export interface LinkedAbort extends Disposable {
  readonly signal: AbortSignal
  /** Aborts our signal only. A second call changes nothing. */
  abort(reason: unknown): void
}

/**
 * @example
 * using linked = linkAbort(options.signal)
 * const response = await send({ ...request, signal: linked.signal })
 */
export function linkAbort(source?: AbortSignal): LinkedAbort {
  return new Linked(source)
}

class Linked implements LinkedAbort {
  readonly signal: Heard
  readonly #controller = new AbortController()
  readonly #off: (() => void) | undefined

  constructor(source: AbortSignal | undefined) {
    this.signal = this.#controller.signal
    this.signal[listeners] = none
    if (source !== undefined) this.#off = onAbort(source, (reason) => this.abort(reason))
  }

  abort(reason: unknown): void {
    const { signal } = this
    if (signal.aborted) return
    this.#controller.abort(reason)
    const told = signal[listeners] ?? none
    signal[listeners] = none
    for (const { listener } of told) {
      try {
        listener(signal.reason)
      } catch (error) {
        // As an EventTarget has it: the others are told all the same.
        process.nextTick(() => {
          throw error
        })
      }
    }
  }

  [Symbol.dispose](): void {
    this.#off?.()
  }
}

/**
 * Listeners of signals made by `linkAbort`, beside the platform's: an EventTarget takes more for adding and removing one
 * than a layer takes for a call.
 */
const listeners = Symbol('listeners')

type Heard = AbortSignal & { [listeners]?: ReadonlySet<Entry> }

/** An object for each, so that a function may be added twice. */
interface Entry {
  readonly listener: (reason: unknown) => void
}

/** Of a signal that nobody has listened to. */
const none: ReadonlySet<Entry> = new Set()

/**
 * Calls `listener` once when `signal` aborts, or at once if it has. Returns what takes the listener off.
 *
 * @example
 * const off = onAbort(options.signal, (reason) => socket.destroy())
 */
export function onAbort(signal: AbortSignal | undefined, listener: (reason: unknown) => void): () => void {
  if (signal === undefined) return nothing
  if (signal.aborted) {
    listener(signal.reason)
    return nothing
  }
  const heardBy = (signal as Heard)[listeners]
  if (heardBy !== undefined) {
    const own = heardBy === none ? new Set<Entry>() : (heardBy as Set<Entry>)
    const entry = { listener }
    ;(signal as Heard)[listeners] = own.add(entry)
    return () => own.delete(entry)
  }
  const heard = (): void => listener(signal.reason)
  signal.addEventListener('abort', heard, { once: true })
  return () => signal.removeEventListener('abort', heard)
}

const nothing = (): void => {}

/**
 * Settles as `work` does, or rejects with `signal.reason` as soon as `signal` aborts. Leaves no listener on the signal; what
 * waits on `work` is let go when `work` settles, so do not abort again and again on one promise that never does.
 *
 * @example
 * const value = await abortable(work, options.signal)
 */
export async function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const off = onAbort(signal, reject)
  try {
    return await Promise.race([work, aborted])
  } finally {
    off()
  }
}

/**
 * Waits `ms` milliseconds; rejects with `signal.reason` when `signal` aborts. The timer keeps the process alive.
 *
 * @example
 * await sleep(error.details.retryAfterMs ?? 1000, options.signal)
 */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, clampTimer(ms))
  try {
    await abortable(promise, signal)
  } finally {
    clearTimeout(timer)
  }
}

/** A delay `setTimeout` can take: above 2^31 - 1 ms (24.8 days), and for NaN, it would fire after 1 ms with a warning. */
export function clampTimer(ms: number): number {
  return ms > 0 ? Math.min(ms, 2_147_483_647) : 0
}
