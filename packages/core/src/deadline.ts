import type { Clock } from './call.ts'
import { MillraceError } from './error.ts'
import { clampTimer } from './signal.ts'

/** One limit on one wait. Dispose it in `finally`. */
export interface Deadline extends Disposable {
  /** Milliseconds left; `Infinity` where there is no limit, never below 0. */
  remainingMs(): number
  /**
   * Set by who makes the call wait for its turn, and taken back when it is let in: a total deadline that ends meanwhile is
   * told as the `queue` clock.
   */
  queued: boolean
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
  return new RunningDeadline(clock, limitMs, expire)
}

/** A class, for there is one in each call: the timer is given the object instead of a closure. */
class RunningDeadline implements Deadline {
  queued = false
  readonly #clock: Clock
  readonly #limitMs: number
  readonly #expire: (error: MillraceError<'timeout'>) => void
  readonly #startedAt = performance.now()
  #timer: NodeJS.Timeout
  #check: NodeJS.Immediate | undefined

  constructor(clock: Clock, limitMs: number, expire: (error: MillraceError<'timeout'>) => void) {
    this.#clock = clock
    this.#limitMs = limitMs
    this.#expire = expire
    this.#timer = setTimeout(RunningDeadline.#fire, clampTimer(limitMs), this).unref()
  }

  remainingMs(): number {
    return Math.max(0, this.#limitMs - this.#elapsedMs())
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer)
    clearImmediate(this.#check)
  }

  #elapsedMs(): number {
    return performance.now() - this.#startedAt
  }

  // Timers round down to whole milliseconds and end at 24.8 days: what is left is slept again.
  static #fire(deadline: RunningDeadline): void {
    const leftMs = deadline.#limitMs - deadline.#elapsedMs()
    if (leftMs > 0) {
      deadline.#timer = setTimeout(RunningDeadline.#fire, clampTimer(Math.ceil(leftMs)), deadline).unref()
      return
    }
    // After a blocked event loop, timers run before the sockets are read: what has already arrived is seen first.
    if (leftMs < -blockedMs) deadline.#check = setImmediate(RunningDeadline.#end, deadline)
    else RunningDeadline.#end(deadline)
  }

  static #end(deadline: RunningDeadline): void {
    const clock = deadline.queued ? 'queue' : deadline.#clock
    deadline.#expire(timeoutError(clock, deadline.#limitMs, deadline.#elapsedMs()))
  }
}

/** A timer this late has waited for other work. */
const blockedMs = 10

function checkLimit(clock: Clock, limitMs: number | undefined): void {
  if (limitMs === undefined || limitMs >= 0) return
  throw new TypeError(`${option[clock]} must be a number of milliseconds from 0 up, or Infinity for no limit, not ${limitMs}`)
}

// Shared by all calls without a limit, so it keeps nothing.
const unlimited: Deadline = {
  get queued() {
    return false
  },
  set queued(_) {},
  remainingMs: () => Number.POSITIVE_INFINITY,
  [Symbol.dispose]() {}
}

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
 * The two content clocks of a provider in one call: silence before the first content and between two contents. All time
 * counts from `waiting` to `resting`, retries and parsing included, so that a flood without content trips them; the
 * reader's own time does not.
 */
export interface ContentClock extends Disposable {
  /** A read of the provider begins. Call it before each read; where the last one brought nothing, the wait goes on. */
  waiting(): void
  /** The reader has been given something, content or not: it is its turn, until `waiting`. */
  resting(): void
  /** Content has arrived: the idle clock starts over. */
  content(): void
}

/** In milliseconds; left out or `Infinity` is no limit. `options.timeouts` fits. */
export interface ContentLimits {
  readonly firstChunkMs?: number | undefined
  readonly idleMs?: number | undefined
}

/** After a blocked event loop this many reads (the head, the start, heartbeats) may come before content that was in time. */
const lateReads = 16

/**
 * Starts both content clocks; `expire` is called at most once, with a `timeout` error that names the clock.
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
  let late = 0

  const silence = (): number => spentMs + (waitingSince === undefined ? 0 : performance.now() - waitingSince)

  // One timer for many reads: it is not moved at each read, it looks when it fires and sleeps for the rest.
  function arm(): void {
    if (over || timer !== undefined || check !== undefined || limitMs === Number.POSITIVE_INFINITY) return
    timer = setTimeout(fire, clampTimer(Math.ceil(limitMs - silence()))).unref()
  }
  function fire(): void {
    timer = undefined
    if (waitingSince === undefined) return // the reader's turn; the next `waiting` arms again
    if (silence() < limitMs) return arm()
    // After a blocked event loop, timers run before the sockets are read: let what has already arrived be seen first.
    check = setImmediate(() => {
      check = undefined
      if (waitingSince === undefined) return
      if (silence() < limitMs) arm()
      else end()
    })
  }
  function stop(): void {
    clearTimeout(timer)
    clearImmediate(check)
    timer = undefined
    check = undefined
  }
  function end(): void {
    over = true
    stop()
    expire(timeoutError(clock, limitMs, silence()))
  }

  return {
    waiting() {
      waitingSince ??= performance.now()
      if (over) return
      // Judged here too: a flood may let no timer run, or only while the reader is at work.
      if (silence() >= limitMs && ++late > lateReads) end()
      else arm()
    },
    resting() {
      if (waitingSince !== undefined) spentMs += performance.now() - waitingSince
      waitingSince = undefined
    },
    content() {
      spentMs = 0
      late = 0
      if (waitingSince !== undefined) waitingSince = performance.now()
      if (clock === 'idle') return
      clock = 'idle'
      limitMs = limits.idleMs ?? Number.POSITIVE_INFINITY
      stop()
      if (waitingSince !== undefined) arm()
    },
    [Symbol.dispose]() {
      over = true
      stop()
    }
  }
}
