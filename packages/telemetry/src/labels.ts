import { other } from './semconv.ts'

/** Keeps the values of one metric label few, whatever callers and providers make up. */
export interface Labels {
  /** The value, if it is known or there is room for it; else `_OTHER`. */
  admit(value: string): string
  /** The value, if it is known; else `_OTHER`. */
  known(value: string): string
}

export function createLabels(max: number): Labels {
  const seen = new Set<string>()
  return {
    admit(value) {
      if (seen.has(value)) return value
      if (seen.size >= max) return other
      seen.add(value)
      return value
    },
    known: (value) => (seen.has(value) ? value : other)
  }
}
