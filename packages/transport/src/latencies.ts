/** A route is known by this many of its latest answers. */
export const maxSamples = 500

/** Sorting costs some 10 us: shared by so many samples, it is nothing. */
const samplesPerLook = 25

/** The latest latencies of a route, and the time within which a given share of them came. */
export class Latencies {
  /** In milliseconds; `Infinity` until there are enough samples. */
  percentileMs: number = Number.POSITIVE_INFINITY
  readonly #percentile: number
  readonly #ring: number[] = []
  #next = 0
  #untilLook: number

  /** `percentile` from 0 to 1; `minSamples` at most `maxSamples`. */
  constructor(percentile: number, minSamples: number) {
    this.#percentile = percentile
    this.#untilLook = minSamples
  }

  add(ms: number): void {
    this.#ring[this.#next] = ms
    this.#next = (this.#next + 1) % maxSamples
    if (--this.#untilLook > 0) return
    this.#untilLook = samplesPerLook
    const sorted = Float64Array.from(this.#ring).toSorted()
    // Nearest rank: that share of the samples is not above it.
    this.percentileMs = sorted[Math.max(0, Math.ceil(sorted.length * this.#percentile) - 1)] ?? Number.POSITIVE_INFINITY
  }
}
