import { Ring } from './ring.ts'

/** Runs what it is given, at most `count` and so many bytes at a time (one of more goes alone), and the rest in the order it came. */
export type Lanes = <T>(work: () => Promise<T>, bytes?: number) => Promise<T>

export function createLanes(count: number, maxBytes: number = Number.POSITIVE_INFINITY): Lanes {
  const waiting = new Ring<{ readonly bytes: number; go(): void }>()
  let next: { readonly bytes: number; go(): void } | undefined
  let running = 0
  let runningBytes = 0

  function serve(): void {
    for (next ??= waiting.shift(); next !== undefined; next = waiting.shift()) {
      if (running >= count || (running > 0 && runningBytes + next.bytes > maxBytes)) return
      running++
      runningBytes += next.bytes
      next.go()
    }
  }

  return async (work, bytes = 0) => {
    const { promise, resolve } = Promise.withResolvers<void>()
    waiting.push({ bytes, go: resolve })
    serve()
    await promise
    try {
      return await work()
    } finally {
      running--
      runningBytes -= bytes
      serve()
    }
  }
}
