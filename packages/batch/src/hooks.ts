import type { BatchOptions } from './batch-options.ts'
import { retryAfter } from './pause.ts'

/** The caller's functions that decide something. One that throws stops nothing: `onFault` counts it. */
export interface Hooks<I> {
  /** Milliseconds; `undefined` where the error asks for no pause. */
  pauseOf(error: unknown): number | undefined
  lengthOf(item: I): number
}

export function createHooks<I>({ pause = retryAfter, length }: BatchOptions<I>, onFault: () => void): Hooks<I> {
  function guarded(hook: () => number | undefined): number | undefined {
    try {
      return hook()
    } catch {
      onFault()
      return undefined
    }
  }
  return {
    pauseOf(error) {
      const ms = guarded(() => pause(error))
      return ms !== undefined && ms >= 0 && Number.isFinite(ms) ? ms : undefined
    },
    lengthOf: (item) => guarded(() => length?.(item)) || 0
  }
}
