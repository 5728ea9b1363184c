/** A route is known by this many of its latest answers. */
export const maxSamples = 500

/**
 * The latest latencies of a route, and the time within which a given share of them came. They are kept in order at all
 * times: a sample moves part of 4 KB, which is less than to sort them now and then.
 */
export class Latencies {
  /** In milliseconds; `Infinity` until there are enough samples. */
  percentileMs: number = Number.POSITIVE_INFINITY
  readonly #percentile: number
  readonly #minSamples: number
  /** In order of time; `#next` is the oldest once all places are taken. */
  readonly #ring = new Float64Array(maxSamples)
  #next = 0
  /** The same ones in order of size. */
  readonly #sorted = new Float64Array(maxSamples)
  #count = 0

  /** `percentile` from 0 to 1; `minSamples` at most `maxSamples`. */
  constructor(percentile: number, minSamples: number) {
    this.#percentile = percentile
    this.#minSamples = minSamples
  }

  add(ms: number): void {
    if (this.#count === maxSamples) this.#forget(this.#ring[this.#next] ?? 0)
    this.#ring[this.#next] = ms
    this.#next = (this.#next + 1) % maxSamples
    const place = this.#placeOf(ms)
    this.#sorted.copyWithin(place + 1, place, this.#count++)
    this.#sorted[place] = ms
    if (this.#count < this.#minSamples) return
    // Nearest rank: that share of the samples is not above it.
    this.percentileMs = this.#sorted[Math.ceil(this.#count * this.#percentile) - 1] ?? Number.POSITIVE_INFINITY
  }

  #forget(ms: number): void {
    const place = this.#placeOf(ms)
    this.#sorted.copyWithin(place, place + 1, this.#count--)
  }

  /** The first place whose latency is not below `ms`. */
  #placeOf(ms: number): number {
    let low = 0
    let high = this.#count
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#sorted[middle] ?? 0) < ms) low = middle + 1
      else high = middle
    }
    return low
  }
}
