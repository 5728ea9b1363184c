import type { Outcome } from './outcome.ts'
import { Ring } from './ring.ts'

/** Outcomes that wait to be taken. Whoever puts bounds their number. */
export interface Outlet<O> {
  put(outcome: Outcome<O>): void
  /** The next in order; `undefined` while that one is not known. */
  take(): Outcome<O> | undefined
  /** Whether there is one to take. */
  readonly ready: boolean
}

/** In the order of their putting. */
export function completionOutlet<O>(): Outlet<O> {
  const ring = new Ring<Outcome<O>>()
  return {
    put: (outcome) => ring.push(outcome),
    take: () => ring.shift(),
    get ready() {
      return ring.size > 0
    }
  }
}

/** In the order of their index, from 0; a ring of `window` places, which is how far apart two of them can be. */
export function inputOutlet<O>(window: number): Outlet<O> {
  // Grown by use: the window may be large and the input short.
  const places: (Outcome<O> | undefined)[] = []
  let next = 0
  return {
    put(outcome) {
      places[outcome.index % window] = outcome
    },
    take() {
      const place = next % window
      const outcome = places[place]
      if (outcome === undefined) return undefined
      places[place] = undefined
      next++
      return outcome
    },
    get ready() {
      return places[next % window] !== undefined
    }
  }
}
