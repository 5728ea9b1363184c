import { Ring } from './ring.ts'

/** Runs what it is given, at most `count` at a time, and the rest in the order it came. */
export type Lanes = <T>(work: () => Promise<T>) => Promise<T>

export function createLanes(count: number): Lanes {
  const waiting = new Ring<() => void>()
  let free = count
  return async (work) => {
    if (free > 0) free--
    else await new Promise<void>((resolve) => waiting.push(resolve))
    try {
      return await work()
    } finally {
      const next = waiting.shift()
      if (next === undefined) free++
      else next()
    }
  }
}
