import type { Progress } from './progress.ts'

const everyMs = 100

/** What a batch counts, and who is told. */
export interface Meter {
  pulled: number
  fulfilled: number
  rejected: number
  replayed: number
  retried: number
  failedHooks: number
  begin(): void
  /** Something settled: whoever listens is told within 100 ms. */
  changed(): void
  end(): void
  read(): Progress
}

/** `now` is what the batch knows itself. */
export function createMeter(
  onProgress: ((progress: Progress) => void) | undefined,
  now: () => { readonly running: number; readonly pausedMs: number }
): Meter {
  let begunMs: number | undefined
  let endedMs: number | undefined
  let toldMs = 0
  let timer: NodeJS.Timeout | undefined

  function tell(): void {
    timer = undefined
    toldMs = performance.now()
    try {
      onProgress?.(meter.read())
    } catch {
      meter.failedHooks++ // told by the next progress: a listener that fails stops no batch
    }
  }

  const meter: Meter = {
    pulled: 0,
    fulfilled: 0,
    rejected: 0,
    replayed: 0,
    retried: 0,
    failedHooks: 0,
    begin() {
      begunMs = toldMs = performance.now()
    },
    changed() {
      if (onProgress === undefined || timer !== undefined || endedMs !== undefined) return
      timer = setTimeout(tell, Math.max(0, everyMs - (performance.now() - toldMs))).unref()
    },
    end() {
      if (endedMs !== undefined) return
      endedMs = performance.now()
      clearTimeout(timer)
      tell()
    },
    read() {
      const { pulled, fulfilled, rejected, replayed, retried, failedHooks } = meter
      const elapsedMs = begunMs === undefined ? 0 : (endedMs ?? performance.now()) - begunMs
      const ran = fulfilled + rejected - replayed
      return {
        pulled,
        ...now(),
        fulfilled,
        rejected,
        replayed,
        retried,
        elapsedMs,
        perSecond: elapsedMs === 0 ? 0 : (ran * 1000) / elapsedMs,
        failedHooks,
        ended: endedMs !== undefined
      }
    }
  }
  return meter
}
