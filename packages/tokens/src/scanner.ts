import { type Characters, caseless, digit, letters, lower, mark, newline, other, space, upper } from './characters.ts'
import { maxPiece } from './piece.ts'

/** The three ways in which OpenAI's encodings split a text into pieces before they merge bytes. */
export type Pattern = 'o200k' | 'cl100k' | 'gpt2'

const apostrophe = 39
const slash = 47
const prefixes: number = space | other | mark // [^\r\n\p{L}\p{N}]
const signs: number = other | mark // [^\s\p{L}\p{N}]
const uppers: number = upper | caseless | mark // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
const lowers: number = lower | caseless | mark // [\p{Ll}\p{Lm}\p{Lo}\p{M}]

/**
 * Finds where a piece ends, as the encoding's regular expression would (which `tiktoken` publishes as `pat_str`), in one
 * pass over the UTF-8 bytes. Only whole characters are looked at, so `end` must not stand inside one.
 */
export class Scanner {
  /** Whether the last piece could be another one if text followed behind `end`. */
  isOpen = false
  /** Whether the last piece goes on behind the place where it was cut for its length. */
  isCut = false
  readonly #characters: Characters
  readonly #ascii: Uint8Array
  readonly #pattern: Pattern
  #bytes: Uint8Array = new Uint8Array(0)
  #end = 0
  #width = 0

  constructor(pattern: Pattern, characters: Characters) {
    this.#pattern = pattern
    this.#characters = characters
    this.#ascii = characters.ascii
  }

  /** Where the piece that begins at `from` ends; `end` is above `from`. */
  pieceEnd(bytes: Uint8Array, from: number, end: number): number {
    this.#bytes = bytes
    this.isOpen = false
    this.isCut = false
    if (end - from <= maxPiece) return this.#scan(from, end)
    let cut = from + maxPiece
    while (((bytes[cut] as number) & 0xc0) === 0x80) cut--
    const found = this.#scan(from, cut)
    this.isCut = this.isOpen && found === cut
    this.isOpen = false
    return found
  }

  #scan(from: number, end: number): number {
    this.#end = end
    if (this.#pattern === 'o200k') return this.#scanO200k(from)
    return this.#pattern === 'cl100k' ? this.#scanCl100k(from) : this.#scanGpt2(from)
  }

  #scanO200k(from: number): number {
    const first = this.#kindAt(from)
    const behind = from + this.#width
    if ((first & letters) !== 0) return this.#contraction(this.#cased(from, from))
    if ((first & prefixes) !== 0) {
      const end = this.#cased(behind, first === mark ? from : behind)
      if (end > behind) return this.#contraction(end)
      // A mark without a letter behind it is a word by itself.
      if (first === mark) return this.#contraction(behind)
    }
    if (first === digit) return this.#upTo(behind, digit, 2)
    return this.#signsOrSpace(from, behind, first, true)
  }

  #scanCl100k(from: number): number {
    const first = this.#kindAt(from)
    const behind = from + this.#width
    if (this.#bytes[from] === apostrophe) {
      const end = this.#contraction(from)
      if (end > from) return end
    }
    if ((first & letters) !== 0) return this.#run(behind, letters)
    if ((first & prefixes) !== 0 && (this.#kindAt(behind) & letters) !== 0) return this.#run(behind, letters)
    if (first === digit) return this.#upTo(behind, digit, 2)
    return this.#signsOrSpace(from, behind, first, false)
  }

  #scanGpt2(from: number): number {
    const bytes = this.#bytes
    if (bytes[from] === apostrophe) {
      const end = this.#contraction(from)
      // Here only small letters make a contraction.
      if (
        end > from &&
        (bytes[from + 1] as number) >= 97 &&
        (bytes[from + 1] as number) < 128 &&
        (bytes[end - 1] as number) >= 97
      )
        return end
    }
    const first = this.#kindAt(from)
    const behind = from + this.#width
    const start = bytes[from] === 32 ? behind : from
    const kind = start === from ? first : this.#kindAt(start)
    if ((kind & letters) !== 0) return this.#run(start, letters)
    if (kind === digit) return this.#run(start, digit)
    if ((kind & signs) !== 0) return this.#run(start, signs)
    return this.#spaces(from, 0)
  }

  /**
   * `A*B+` or else `A+B*`, where A is `uppers` and B is `lowers`: a word in small letters with capitals before it, or
   * capitals alone. Gives `from` when there is neither. `start` may stand one mark before `from`.
   */
  #cased(from: number, start: number): number {
    const bytes = this.#bytes
    const ascii = this.#ascii
    const end = this.#end
    let at = from
    let lastBoth = -1 // where the last character ends that is of A and of B
    for (;;) {
      while (at < end && ascii[bytes[at] as number] === upper) at++
      const kind = this.#kindAt(at)
      if ((kind & uppers) === 0) {
        if (kind === lower) return this.#run(at, lowers)
        // B+ needs a character: A* gives back what it took, up to the last one that B has too.
        if (lastBoth !== -1) return lastBoth
        return start < from ? from : at
      }
      at += this.#width
      if (kind !== upper) lastBoth = at
    }
  }

  /** ` ?[^\s\p{L}\p{N}]+[\r\n/]*`, or else white space. */
  #signsOrSpace(from: number, behind: number, first: number, withSlash: boolean): number {
    let at = from
    if (this.#bytes[from] === 32) {
      if ((this.#kindAt(behind) & signs) === 0) return this.#spaces(from, newline)
      at = behind
    } else if ((first & signs) === 0) return this.#spaces(from, newline)
    at = this.#run(at, signs)
    const bytes = this.#bytes
    for (; at < this.#end; at++) {
      const byte = bytes[at]
      if (byte !== 10 && byte !== 13 && !(withSlash && byte === slash)) return at
    }
    this.isOpen = true
    return at
  }

  /** `\s*[\r\n]+|\s+(?!\S)|\s+`; with `breaks` 0 its first part is left out. */
  #spaces(from: number, breaks: number): number {
    let at = from
    let last = from
    let broken = -1
    for (;;) {
      const kind = this.#kindAt(at)
      if ((kind & (space | newline)) === 0) break
      last = at
      at += this.#width
      if ((kind & breaks) !== 0) broken = at
    }
    if (broken !== -1) return broken
    // The last space goes with the word behind it, unless it is the only one.
    return at === this.#end || last === from ? at : last
  }

  /** Over all characters of these kinds. */
  #run(from: number, kinds: number): number {
    const bytes = this.#bytes
    const ascii = this.#ascii
    const end = this.#end
    let at = from
    for (;;) {
      while (at < end && ((ascii[bytes[at] as number] as number) & kinds) !== 0) at++
      if (at < end && (bytes[at] as number) < 128) return at
      if ((this.#kindAt(at) & kinds) === 0) return at
      at += this.#width
    }
  }

  /** Over at most `count` characters of this kind. */
  #upTo(from: number, kind: number, count: number): number {
    let at = from
    for (let taken = 0; taken < count; taken++) {
      if (this.#kindAt(at) !== kind) return at
      at += this.#width
    }
    return at
  }

  /** `(?i:'s|'t|'re|'ve|'m|'ll|'d)?`: where it ends, or `from`. */
  #contraction(from: number): number {
    const bytes = this.#bytes
    const end = this.#end
    if (from >= end) {
      this.isOpen = true
      return from
    }
    if (bytes[from] !== apostrophe) return from
    if (from + 1 >= end) {
      this.isOpen = true
      return from
    }
    const letter = (bytes[from + 1] as number) | 32
    // s, t, m, d
    if (letter === 115 || letter === 116 || letter === 109 || letter === 100) return from + 2
    // re, ve, ll
    if (letter === 114 || letter === 118 || letter === 108) {
      if (from + 2 >= end) this.isOpen = true
      else if (((bytes[from + 2] as number) | 32) === (letter === 108 ? 108 : 101)) return from + 3
      return from
    }
    // The long s (U+017F) is an s to a pattern that ignores case.
    return bytes[from + 1] === 0xc5 && bytes[from + 2] === 0xbf ? from + 3 : from
  }

  /** The kind of the character at `at`, 0 at the end; its bytes are in `#width`. */
  #kindAt(at: number): number {
    if (at >= this.#end) {
      this.isOpen = true
      this.#width = 0
      return 0
    }
    const bytes = this.#bytes
    const byte = bytes[at] as number
    if (byte < 0x80) {
      this.#width = 1
      return this.#ascii[byte] as number
    }
    const second = (bytes[at + 1] as number) & 0x3f
    if (byte < 0xe0) {
      this.#width = 2
      return this.#characters.kindOf(((byte & 0x1f) << 6) | second)
    }
    const third = (bytes[at + 2] as number) & 0x3f
    if (byte < 0xf0) {
      this.#width = 3
      return this.#characters.kindOf(((byte & 0x0f) << 12) | (second << 6) | third)
    }
    this.#width = 4
    const fourth = (bytes[at + 3] as number) & 0x3f
    return this.#characters.kindOf(((byte & 0x07) << 18) | (second << 12) | (third << 6) | fourth)
  }
}
