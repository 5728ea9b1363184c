/** Numbers from 0 (inclusive) to 1 (exclusive), the same ones for the same seed; mulberry32, fit for tests and made-up workloads only. */
export type Random = () => number

/**
 * A seeded generator: a failing run can be repeated from the seed it printed.
 *
 * @example
 * const random = seededRandom(42)
 * const die = 1 + Math.floor(random() * 6)
 */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000
  }
}

/** FNV-1a over UTF-16 units, 32 bits: a stable seed for a text. */
export function seedOf(text: string): number {
  let hash = 0x811c9dc5
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193)
  return hash >>> 0
}
