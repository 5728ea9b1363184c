import type { RunOptions } from './batch-options.ts'
import type { Item } from './item.ts'
import { retryAfter } from './pause.ts'

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
      if (item.attempt - (item.full?.tries ?? 0) > maxPauses) return undefined
      const ms = asked(() => pause(error))
      return ms !== undefined && ms >= 0 && ms !== Number.POSITIVE_INFINITY ? ms : undefined
    },
    lengthOf: (item) => asked(() => length?.(item)) ?? 0
  }
}
