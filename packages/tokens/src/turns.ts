import { onAbort } from '@millrace/core'

/** How long the event loop is held at once by what promises not to block it. */
const holdMs = 5

/**
 * Shares the event loop between all who count without blocking it: together they hold it for some 5 ms, and the next of
 * them go on at its next turn. Each with a limit of its own would add up, for all that wait for a turn get the same one.
 */
export interface Turns {
  /** Waits for a turn, unless there is time left in the present one. Rejects with the reason when the signal aborts. */
  next(signal?: AbortSignal): Promise<void> | undefined
  /** The same for what others wait for: it goes first. */
  soon(): Promise<void> | undefined
}

export function createTurns(): Turns {
  const waiting = new Set<() => void>()
  const first = new Set<() => void>()
  let startedAt = performance.now()
  let isCalled = false

  const isOver = (): boolean => performance.now() - startedAt >= holdMs

  function call(): void {
    if (isCalled) return
    isCalled = true
    setImmediate(() => {
      isCalled = false
      startedAt = performance.now()
      give()
    })
  }

  /** One after the other: each goes on in a microtask, and behind it stands the one that lets go of the next. */
  function give(): void {
    const [next] = first.size > 0 ? first : waiting
    if (next === undefined) return
    next()
    queueMicrotask(() => (isOver() ? call() : give()))
  }

  function queued(queue: Set<() => void>, signal?: AbortSignal): Promise<void> | undefined {
    if (!isOver()) return undefined
    return new Promise((resolve, reject) => {
      const go = (): void => {
        queue.delete(go)
        off()
        resolve()
      }
      queue.add(go)
      const off = onAbort(signal, (reason) => {
        queue.delete(go)
        reject(reason)
      })
      call()
    })
  }

  return { next: (signal) => queued(waiting, signal), soon: () => queued(first) }
}
