/** A stop text that has been found. */
export interface Found {
  /** Where in the pushed text it ends. */
  readonly end: number
  /** How long it is; its beginning may have been pushed before. */
  readonly length: number
}

/** Looks for texts in one that comes in pieces, in one pass for each of them. */
export interface StopTexts {
  /** The text that ends first, and of those that end together the longest. */
  push(piece: string): Found | undefined
  /** How many of the last characters could be the beginning of a text. */
  readonly open: number
  /** What was pushed is not continued. */
  reset(): void
}

export function stopTexts(texts: readonly string[]): StopTexts {
  const matches = texts.map((text) => new Match(text))
  return {
    push(piece) {
      let found: Found | undefined
      for (const match of matches) {
        const end = match.push(piece)
        if (end === -1) continue
        const { length } = match.text
        if (found === undefined || end < found.end || (end === found.end && length > found.length)) found = { end, length }
      }
      return found
    },
    get open() {
      let open = 0
      for (const { matched } of matches) if (matched > open) open = matched
      return open
    },
    reset() {
      for (const match of matches) match.matched = 0
    }
  }
}

/** Knuth, Morris and Pratt: no character is looked at again, in however many pieces it comes. */
class Match {
  readonly text: string
  readonly #first: string
  readonly #shorter: Int32Array
  matched = 0

  constructor(text: string) {
    this.text = text
    this.#first = text.charAt(0)
    this.#shorter = shorterMatches(text)
  }

  push(piece: string): number {
    for (let at = 0; at < piece.length; at++) {
      if (this.matched === 0) {
        at = piece.indexOf(this.#first, at)
        if (at === -1) return -1
      }
      const unit = piece.charCodeAt(at)
      while (this.matched > 0 && this.text.charCodeAt(this.matched) !== unit) {
        this.matched = this.#shorter[this.matched - 1] as number
      }
      if (this.text.charCodeAt(this.matched) === unit) this.matched++
      if (this.matched === this.text.length) return at + 1
    }
    return -1
  }
}

/** For each beginning of the text, the longest shorter one that it ends with. */
function shorterMatches(text: string): Int32Array {
  const shorter = new Int32Array(text.length)
  let matched = 0
  for (let at = 1; at < text.length; at++) {
    const unit = text.charCodeAt(at)
    while (matched > 0 && text.charCodeAt(matched) !== unit) matched = shorter[matched - 1] as number
    if (text.charCodeAt(matched) === unit) matched++
    shorter[at] = matched
  }
  return shorter
}
