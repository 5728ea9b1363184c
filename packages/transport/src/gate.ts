import { abortable, MillraceError } from '@millrace/core'

/** Lets at most `limit` exchanges run at a time and queues the rest, first come first served. */
export interface Gate {
  readonly busy: number
  readonly queued: number
  /**
   * Resolves when there is room.
   *
   * @throws {MillraceError} `queue-full`; `signal.reason`
   */
  enter(signal: AbortSignal | undefined): Promise<void>
  leave(): void
}

/** undici would queue too, but its queue has no bound, and an aborted request stays in it until a socket is free. */
export function createGate(limit: number, maxQueue: number): Gate {
  let busy = 0
  const waiting = new Set<() => void>()

  async function enter(signal: AbortSignal | undefined): Promise<void> {
    if (waiting.size >= maxQueue) {
      throw new MillraceError(
        'queue-full',
        `${limit} connections are busy and ${maxQueue} requests wait (maxConnections, maxQueue)`,
        {
          details: { limit: maxQueue }
        }
      )
    }
    const { promise, resolve } = Promise.withResolvers<void>()
    waiting.add(resolve)
    try {
      await abortable(promise, signal)
    } catch (error) {
      // Not in the queue any more means that the place was handed over in the same moment: pass it on.
      if (!waiting.delete(resolve)) leave()
      throw error
    }
  }

  function leave(): void {
    const [next] = waiting
    if (next === undefined) {
      busy--
      return
    }
    waiting.delete(next)
    next()
  }

  return {
    get busy() {
      return busy
    },
    get queued() {
      return waiting.size
    },
    enter(signal) {
      if (busy >= limit) return enter(signal)
      busy++
      return entered
    },
    leave
  }
}

const entered = Promise.resolve()
