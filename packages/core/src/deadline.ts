import type { Clock } from './call.ts'
import { MillraceError } from './error.ts'
import { clampTimer } from './signal.ts'

/** One limit on one wait. Dispose it in `finally`. */
export interface Deadline extends Disposable {
  /** Milliseconds left; `Infinity` where there is no limit, never below 0. */
  remainingMs(): number
}

/**
 * Calls `expire` with a `timeout` error once `limitMs` have passed. `Infinity` or `undefined` is no limit and no timer.
 * The timer does not keep the process alive: the work it guards does.
 */
export function startDeadline(
  clock: Clock,
  limitMs: number | undefined,
  expire: (error: MillraceError<'timeout'>) => void
): Deadline {
  if (limitMs === undefined || limitMs === Number.POSITIVE_INFINITY) return unlimited
  const startedAt = performance.now()
  const elapsed = (): number => performance.now() - startedAt
  const timer = setTimeout(() => expire(timeoutError(clock, limitMs, elapsed())), clampTimer(limitMs)).unref()
  return {
    remainingMs: () => Math.max(0, limitMs - elapsed()),
    [Symbol.dispose]: () => clearTimeout(timer)
  }
}

const unlimited: Deadline = { remainingMs: () => Number.POSITIVE_INFINITY, [Symbol.dispose]() {} }

/** The error of a clock that fired. */
export function timeoutError(clock: Clock, limitMs: number, elapsedMs: number): MillraceError<'timeout'> {
  return new MillraceError(
    'timeout',
    `the ${clock} clock fired: nothing within ${limitMs} ms (${clock === 'total' ? 'timeouts.totalMs' : option[clock]})`,
    {
      details: { clock, limitMs, elapsedMs: Math.round(elapsedMs) }
    }
  )
}

const option: Readonly<Record<Clock, string>> = {
  queue: 'the wait for a socket counts against timeouts.totalMs',
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

export interface ContentLimits {
  readonly firstChunkMs?: number | undefined
  readonly idleMs?: number | undefined
}

export function startContentClock(limits: ContentLimits, expire: (error: MillraceError<'timeout'>) => void): ContentClock {
  let clock: 'first-chunk' | 'idle' = 'first-chunk'
  let limitMs = limits.firstChunkMs ?? Number.POSITIVE_INFINITY
  let spentMs = 0
  let waitingSince: number | undefined
  let timer: NodeJS.Timeout | undefined
  let check: NodeJS.Immediate | undefined

  const silence = (): number => spentMs + (waitingSince === undefined ? 0 : performance.now() - waitingSince)

  // One timer for many reads: it is not moved at each read, it looks when it fires and sleeps for the rest.
  function arm(): void {
    if (limitMs === Number.POSITIVE_INFINITY) return
    timer = setTimeout(fire, clampTimer(Math.ceil(limitMs - silence()))).unref()
  }
  function fire(): void {
    timer = undefined
    if (waitingSince === undefined) return // the reader's turn; the next `waiting` arms again
    if (silence() < limitMs) return arm()
    // After a blocked event loop, timers run before the sockets are read: let what has already arrived be seen first.
    check = setImmediate(() => {
      if (waitingSince === undefined) return
      if (silence() < limitMs) return arm()
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
      waitingSince = undefined
      clearTimeout(timer)
      clearImmediate(check)
    }
  }
}
