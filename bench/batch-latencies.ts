// How long each item takes, and what is known of that beforehand: the same for a seed everywhere.

const medianMs = 20
const sigma = 1.2
/** Of the logarithms. */
const correlation = 0.7

export interface Latencies {
  /** Whole milliseconds, at least 1: what a timer can do. */
  readonly ms: readonly number[]
  /** What `max_tokens` would tell, in no unit. */
  readonly hints: readonly number[]
}

/** Log-normal ones. */
export function drawLatencies(seed: number, count: number): Latencies {
  const uniform = mulberry32(seed)
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())
  const drawn = Array.from({ length: count }, normal)
  return {
    ms: drawn.map((z) => Math.max(1, Math.round(medianMs * Math.exp(sigma * z)))),
    hints: drawn.map((z) => Math.exp(correlation * z + Math.sqrt(1 - correlation ** 2) * normal()))
  }
}

/** No schedule is shorter: the work of all, or the longest of them. */
export function lowerBound(ms: readonly number[], concurrency: number): number {
  return Math.max(
    ms.reduce((sum, each) => sum + each, 0) / concurrency,
    ms.reduce((most, each) => Math.max(most, each), 0)
  )
}

function mulberry32(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
