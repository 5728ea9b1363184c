import { abortable, linkAbort } from '@millrace/core'

/** One computation for many askers. */
export interface Work<T> {
  /** Settles with the work, or rejects with `signal.reason`. The work is aborted when the last asker has gone. */
  join(signal: AbortSignal | undefined): Promise<T>
}

/** Starts the computation. `onEnd` is called once, before any asker hears of the end. */
export function createWork<T>(
  compute: (signal: AbortSignal) => Promise<T>,
  onEnd: (outcome: { readonly value: T } | undefined) => void
): Work<T> {
  const abort = linkAbort(undefined)
  let askers = 0
  let over = false

  function end(outcome: { readonly value: T } | undefined): void {
    if (over) return
    over = true
    onEnd(outcome)
  }

  async function run(): Promise<T> {
    try {
      // Not in this turn: what throws at once would end before the caller has its work in hand.
      await Promise.resolve()
      const value = await compute(abort.signal)
      end({ value })
      return value
    } catch (error) {
      end(undefined)
      throw error
    }
  }

  const result = run()
  // Each asker hears of a failure through its own promise; where all have gone, nobody is left to.
  result.catch(() => {})

  return {
    async join(signal) {
      askers++
      try {
        return await abortable(result, signal)
      } finally {
        if (--askers === 0 && !over) {
          end(undefined)
          abort.abort(new DOMException('nobody waits for this value any more', 'AbortError'))
        }
      }
    }
  }
}
