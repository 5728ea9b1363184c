import { clampTimer, MillraceError } from '@millrace/core'
import type { Item, RunningItems } from './item.ts'

/** A timer this late has waited for other work. */
const blockedMs = 10

/** One timer for all items that run: their limit is the same, so the first that started is the first whose time is up. */
export interface TimeLimit {
  /** The item has started; it stands at the end of those that run. */
  start(item: Item<unknown>): void
  /** Whether the timer keeps the process alive. */
  hold(held: 'ref' | 'unref'): void
  stop(): void
}

/** `expire` takes the items out of `running`; `onExpired` follows once for all of them. */
export function createTimeLimit<I>(
  limitMs: number,
  running: RunningItems<I>,
  expire: (item: Item<I>, reason: MillraceError) => void,
  onExpired: () => void
): TimeLimit {
  let timer: NodeJS.Timeout | undefined
  let check: NodeJS.Immediate | undefined
  let held: 'ref' | 'unref' = 'unref'

  function arm(ms: number): void {
    timer ??= setTimeout(fire, clampTimer(Math.ceil(ms)))[held]()
  }
  function fire(): void {
    timer = undefined
    const { first } = running
    if (first === undefined) return
    // After a blocked event loop, timers run before the sockets are read: what has already arrived is seen first.
    if (performance.now() - first.startedAt > limitMs + blockedMs) check = setImmediate(look)
    else look()
  }
  function look(): void {
    const now = performance.now()
    for (let item = running.first; item !== undefined; item = running.first) {
      const elapsedMs = now - item.startedAt
      if (elapsedMs < limitMs) {
        arm(limitMs - elapsedMs)
        break
      }
      const details = { clock: 'total', limitMs, elapsedMs: Math.round(elapsedMs) } as const
      expire(item, new MillraceError('timeout', `the item took longer than ${limitMs} ms (itemTimeoutMs)`, { details }))
    }
    onExpired()
  }

  return {
    start(item) {
      item.startedAt = performance.now()
      arm(limitMs)
    },
    hold(as) {
      held = as
      timer?.[as]()
    },
    stop() {
      clearTimeout(timer)
      clearImmediate(check)
    }
  }
}
