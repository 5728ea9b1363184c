import type { Clock } from './call.ts'
import { MillraceError } from './error.ts'
import { clampTimer } from './signal.ts'

/** One limit on one wait. Dispose it in `finally`. */
export interface Deadline extends Disposable {
  /** Milliseconds left; `Infinity` where there is no limit, never below 0. */
  remainingMs(): number
}

/**
 * Calls `expire` once with a `timeout` error when `limitMs` have passed. `Infinity` or `undefined` is no limit and no
 * timer. The timer does not keep the process alive: the work it guards does.
 *
 * @throws {TypeError} when `limitMs` is negative or NaN
 *
 * @example
 * using deadline = startDeadline('total', 30_000, (error) => linked.abort(error))
 */
export function startDeadline(
  clock: Clock,
  limitMs: number | undefined,
  expire: (error: MillraceError<'timeout'>) => void
): Deadline {
  if (limitMs === undefined || limitMs === Number.POSITIVE_INFINITY) return unlimited
  checkLimit(clock, limitMs)
  const startedAt = performance.now()
  const elapsed = (): number => performance.now() - startedAt
  // Timers round down to whole milliseconds and end at 24.8 days: what is left is slept again.
  const fire = (): void => {
    const leftMs = limitMs - elapsed()
    if (leftMs > 0) timer = setTimeout(fire, clampTimer(Math.ceil(leftMs))).unref()
    else expire(timeoutError(clock, limitMs, elapsed()))
  }
  let timer = setTimeout(fire, clampTimer(limitMs)).unref()
  return {
    remainingMs: () => Math.max(0, limitMs - elapsed()),
    [Symbol.dispose]: () => clearTimeout(timer)
  }
}

function checkLimit(clock: Clock, limitMs: number | undefined): void {
  if (limitMs === undefined || limitMs >= 0) return
  throw new TypeError(`${option[clock]} must be a number of milliseconds from 0 up, or Infinity for no limit, not ${limitMs}`)
}

const unlimited: Deadline = { remainingMs: () => Number.POSITIVE_INFINITY, [Symbol.dispose]() {} }

/** The error of a clock that fired. */
export function timeoutError(clock: Clock, limitMs: number, elapsedMs: number): MillraceError<'timeout'> {
  return new MillraceError(
    'timeout',
    `the ${clock} clock fired after ${limitMs} ms (${clock === 'queue' ? 'the wait for a socket counts against ' : ''}${option[clock]})`,
    { details: { clock, limitMs, elapsedMs: Math.round(elapsedMs) } }
  )
}

const option: Readonly<Record<Clock, string>> = {
  queue: 'timeouts.totalMs',
  connect: 'timeouts.connectMs',
  headers: 'timeouts.headersMs',
  'first-chunk': 'timeouts.firstChunkMs',
  idle: 'timeouts.idleMs',
  total: 'timeouts.totalMs'
}

/**
 * The two content clocks of one attempt: silence before the first content and between two contents. Only the time spent
 * waiting for the provider counts (between `waiting` and `resting`), so a slow reader trips nothing.
 */
export interface ContentClock extends Disposable {
  /** A read of the provider is pending from now on. */
  waiting(): void
  /** The read has come back. */
  resting(): void
  /** Content has arrived: the idle clock starts over. */
  content(): void
}

/** In milliseconds; left out or `Infinity` is no limit. `options.timeouts` fits. */
export interface ContentLimits {
  readonly firstChunkMs?: number | undefined
  readonly idleMs?: number | undefined
}

/**
 * Starts both content clocks of an attempt; `expire` is called at most once, with a `timeout` error that names the clock.
 *
 * @throws {TypeError} when a limit is negative or NaN
 *
 * @example
 * using clock = startContentClock(options.timeouts ?? {}, (error) => linked.abort(error))
 */
export function startContentClock(limits: ContentLimits, expire: (error: MillraceError<'timeout'>) => void): ContentClock {
  checkLimit('first-chunk', limits.firstChunkMs)
  checkLimit('idle', limits.idleMs)
  let over = false // expired or disposed
  let clock: 'first-chunk' | 'idle' = 'first-chunk'
  let limitMs = limits.firstChunkMs ?? Number.POSITIVE_INFINITY
  let spentMs = 0
  let waitingSince: number | undefined
  let timer: NodeJS.Timeout | undefined
  let check: NodeJS.Immediate | undefined

  const silence = (): number => spentMs + (waitingSince === undefined ? 0 : performance.now() - waitingSince)

  // One timer for many reads: it is not moved at each read, it looks when it fires and sleeps for the rest.
  function arm(): void {
    if (over || limitMs === Number.POSITIVE_INFINITY) return
    timer = setTimeout(fire, clampTimer(Math.ceil(limitMs - silence()))).unref()
  }
  function fire(): void {
    timer = undefined
    if (waitingSince === undefined) return // the reader's turn; the next `waiting` arms again
    if (silence() < limitMs) return arm()
    // After a blocked event loop, timers run before the sockets are read: let what has already arrived be seen first.
    check = setImmediate(() => {
      if (waitingSince === undefined || timer !== undefined) return // a new read has armed it
      if (silence() < limitMs) return arm()
      over = true
      expire(timeoutError(clock, limitMs, silence()))
    })
  }

  return {
    waiting() {
      waitingSince = performance.now()
      if (timer === undefined) arm()
    },
    resting() {
      if (waitingSince !== undefined) spentMs += performance.now() - waitingSince
      waitingSince = undefined
    },
    content() {
      spentMs = 0
      if (waitingSince !== undefined) waitingSince = performance.now()
      if (clock === 'idle') return
      clock = 'idle'
      limitMs = limits.idleMs ?? Number.POSITIVE_INFINITY
      clearTimeout(timer)
      timer = undefined
      if (waitingSince !== undefined) arm()
    },
    [Symbol.dispose]() {
      over = true
      clearTimeout(timer)
      clearImmediate(check)
    }
  }
}
