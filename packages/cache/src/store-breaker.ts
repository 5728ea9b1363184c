/** Says when a store is to be left alone, and asks it now and then whether it is back. */
export interface Breaker {
  /** Nobody may call the store. */
  readonly open: boolean
  succeeded(): void
  failed(): void
  /** No more questions, for the end. */
  stop(): void
}

/** Failures in a row that open it. */
const maxFailures = 3
const firstRestMs = 100
const maxRestMs = 400

/**
 * Opens after three failures in a row. While it is open, `probe` runs in the background after 100, 200 and then each 400 ms,
 * and the first success closes it. `probe` never rejects, and tells its outcome as every other call does.
 */
export function createBreaker(probe: () => Promise<unknown>): Breaker {
  let failures = 0
  let probes = 0
  let timer: NodeJS.Timeout | undefined
  let stopped = false

  function rest(): void {
    timer = setTimeout(ask, Math.min(firstRestMs * 2 ** probes++, maxRestMs)).unref()
  }

  async function ask(): Promise<void> {
    await probe()
    timer = undefined
    if (failures >= maxFailures && !stopped) rest()
  }

  return {
    get open() {
      return failures >= maxFailures
    },
    succeeded() {
      failures = 0
      probes = 0
    },
    failed() {
      if (++failures === maxFailures && timer === undefined && !stopped) rest()
    },
    stop() {
      stopped = true
      clearTimeout(timer)
    }
  }
}
