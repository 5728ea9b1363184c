import { isMillraceError } from '@millrace/core'
import type { RunOptions } from './batch-options.ts'
import type { Item } from './item.ts'
import { retryAfter } from './pause.ts'

// A full queue of ours empties by itself, and says nothing of when.
const firstFullMs = 100
const longestFullMs = 5000

/** The caller's functions that decide something. One that throws stops nothing: `onFault` counts it. */
export interface Hooks<I> {
  /** Milliseconds; `undefined` where the error asks for no pause, or the item has had all its pauses. */
  pauseOf(error: unknown, item: Item<I>): number | undefined
  lengthOf(item: I): number
}

export function createHooks<I>({ pause = retryAfter, maxPauses, length }: RunOptions<I>, onFault: () => void): Hooks<I> {
  /** What a hook says, in a form that can be reckoned with; else `undefined`. */
  function asked(hook: () => unknown): number | undefined {
    try {
      const said = hook()
      return typeof said === 'number' && !Number.isNaN(said) ? said : undefined
    } catch {
      onFault()
      return undefined
    }
  }
  return {
    pauseOf(error, item) {
      if (item.attempt - item.full <= maxPauses) {
        const ms = asked(() => pause(error))
        if (ms !== undefined && ms >= 0 && ms !== Number.POSITIVE_INFINITY) return ms
      }
      if (maxPauses === 0 || !isMillraceError(error, 'queue-full')) return undefined
      return Math.min(longestFullMs, firstFullMs * 2 ** item.full++)
    },
    lengthOf: (item) => asked(() => length?.(item)) ?? 0
  }
}
