// What the regular expressions of the encodings tell apart, as bits. `\s` is `space | newline`, `\p{L}` is `letters`.
export const upper = 1 // \p{Lu}\p{Lt}
export const lower = 2 // \p{Ll}
export const caseless = 4 // \p{Lm}\p{Lo}
export const mark = 8 // \p{M}
export const digit = 16 // \p{N}
export const space = 32 // \p{White_Space}, newlines aside
export const newline = 64 // \r and \n
export const other = 128

export const letters: number = upper | lower | caseless

const patterns: readonly (readonly [RegExp, number])[] = [
  [/[\p{Lu}\p{Lt}]+/gu, upper],
  [/\p{Ll}+/gu, lower],
  [/[\p{Lm}\p{Lo}]+/gu, caseless],
  [/\p{M}+/gu, mark],
  [/\p{N}+/gu, digit],
  [/\p{White_Space}+/gu, space]
]

const pageSize = 4096

/** The kind of each character, made page by page when a text first needs it: a page takes about half a millisecond. */
export class Characters {
  /** By byte; 0 for the bytes of longer characters, so that a loop over ASCII ends there by itself. */
  readonly ascii: Uint8Array = new Uint8Array(256)
  readonly #pages: (Uint8Array | undefined)[] = []

  constructor() {
    this.ascii.set(this.#page(0).subarray(0, 128))
  }

  kindOf(codePoint: number): number {
    const page = this.#pages[codePoint >> 12] ?? this.#page(codePoint >> 12)
    return page[codePoint & (pageSize - 1)] as number
  }

  #page(index: number): Uint8Array {
    const kinds = new Uint8Array(pageSize).fill(other)
    // Each character takes one place in the text, or two: lone surrogates count as U+FFFD, which is `other` too.
    const first = index * pageSize
    const width = first > 0xffff ? 2 : 1
    const units: number[] = []
    for (let at = first; at < first + pageSize; at++) units.push(at >= 0xd800 && at <= 0xdfff ? 0xfffd : at)
    const text = String.fromCodePoint(...units)
    for (const [pattern, kind] of patterns) {
      for (const { index: from, 0: run } of text.matchAll(pattern)) kinds.fill(kind, from / width, (from + run.length) / width)
    }
    if (index === 0) kinds[10] = kinds[13] = newline
    this.#pages[index] = kinds
    return kinds
  }
}
