/** How long the event loop is held at once by what promises not to block it. */
const holdMs = 5

/**
 * Shares the event loop between all who count without blocking it: together they hold it for some 5 ms, and then one of
 * them goes on at its next turn. Each with a limit of its own would add up, for all that wait for a turn get the same one.
 */
export interface Turns {
  /** Waits for a turn; `undefined` while the present one is not used up. */
  next(): Promise<void> | undefined
}

export function createTurns(): Turns {
  const waiting: (() => void)[] = []
  let startedAt = performance.now()

  function give(): void {
    startedAt = performance.now()
    waiting.shift()?.()
    if (waiting.length > 0) setImmediate(give)
  }

  return {
    next() {
      if (waiting.length === 0 && performance.now() - startedAt < holdMs) return undefined
      return new Promise((resolve) => {
        if (waiting.push(resolve) === 1) setImmediate(give)
      })
    }
  }
}
