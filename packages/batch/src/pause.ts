import { clampTimer, isMillraceError } from '@millrace/core'

/** Part of a pause over which the starts after it are spread, so that they do not all come at once and end in the next pause. */
const spread = 0.2

/** Holds all starts of a batch back while a limit says so. */
export interface Pause {
  /** Nothing starts for `ms`; where that is sooner than what was said before, nothing changes. */
  begin(ms: number): void
  /** Whether nothing starts just now. */
  readonly active: boolean
  /** Whether one more may start now. If not, `onOpen` is called when it may. */
  admit(): boolean
  readonly pausedMs: number
  /** Whether the timer keeps the process alive. */
  hold(held: 'ref' | 'unref'): void
  stop(): void
}

/** `places`: how many starts the spread is for. */
export function createPause(places: number, onOpen: () => void): Pause {
  let untilMs = 0
  let spreadEndMs = 0 // 0 is no pause and no spread, which is nearly always
  let nextMs = 0
  let gapMs = 0
  let pausedMs = 0
  let timer: NodeJS.Timeout | undefined
  let held: 'ref' | 'unref' = 'unref'

  function arm(ms: number): void {
    timer ??= setTimeout(open, clampTimer(Math.ceil(ms)))[held]()
  }
  function open(): void {
    timer = undefined
    onOpen()
  }
  function leftMs(): number {
    return untilMs === 0 ? 0 : Math.max(0, untilMs - performance.now())
  }

  return {
    begin(ms) {
      const now = performance.now()
      if (now + ms <= untilMs) return
      pausedMs += now + ms - Math.max(now, untilMs)
      untilMs = now + ms
      spreadEndMs = untilMs + ms * spread
      gapMs = (ms * spread) / places
      nextMs = untilMs + Math.random() * 2 * gapMs
      arm(nextMs - now)
    },
    get active() {
      return leftMs() > 0
    },
    admit() {
      if (spreadEndMs === 0) return true
      const now = performance.now()
      if (now >= spreadEndMs) {
        spreadEndMs = 0
        return true
      }
      if (now < nextMs) {
        arm(nextMs - now)
        return false
      }
      nextMs = now + Math.random() * 2 * gapMs
      return true
    },
    get pausedMs() {
      return pausedMs - leftMs()
    },
    hold(as) {
      held = as
      timer?.[as]()
    },
    stop() {
      clearTimeout(timer)
      pausedMs -= leftMs()
      untilMs = 0
    }
  }
}

/** How long an error of ours asks to be left alone. */
export function retryAfter(error: unknown): number | undefined {
  if (isMillraceError(error, 'rate-limited') || isMillraceError(error, 'overloaded')) return error.details.retryAfterMs
  return undefined
}
