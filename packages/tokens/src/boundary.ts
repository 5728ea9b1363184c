/**
 * Where a text can be cut without changing its tokens, so that no piece given to tiktoken is long: its merge is quadratic
 * in the length of a piece, and a piece (a run of letters, spaces, punctuation) can be as long as the text.
 *
 * A byte-pair encoding first splits the text by a regular expression. The rules below hold for those of cl100k_base and
 * o200k_base alike: at a safe boundary the piece on the left is over whatever follows, and the one on the right begins
 * whatever came before. Ordinary text has one every few characters.
 */
export interface Splitter {
  /** Takes more text, and hands on what can be counted by itself. Looks at each character once. */
  push(text: string): void
  /** What is held back: it could still grow together with what comes. At most `maxPiece` characters. */
  rest(): string
}

/**
 * A piece longer than this is cut where no boundary is; each such cut costs at most about one token of exactness. Words,
 * rules of dashes and clauses of Chinese or Thai stay far below it.
 */
export const maxPiece = 400

/** tiktoken's regular expression recurses: a million characters at once can overflow the stack of its WASM module. */
const maxSlice = 65_536

// Classes of characters. The first five are states too: the class of the character before.
const letter = 0
const mark = 1
const digit = 2
const other = 3
const space = 4
const newline = 5
const apostrophe = 6 // begins a contraction, as in `don't`
const slash = 7 // o200k_base lets slashes and newlines trail punctuation
const tail = 6 // a state only: newlines behind punctuation, which belong to its piece

/** One row a state (letter, mark, digit, other, space, newline, tail), one column a class: 1 is a safe boundary. */
const safeBefore = [
  //             letter mark digit other space newline apostrophe slash
  /* letter  */ [0, 0, 1, 1, 1, 1, 0, 1],
  /* mark    */ [0, 0, 1, 0, 1, 0, 0, 0], // in one encoding a mark is a letter, in the other punctuation
  /* digit   */ [1, 1, 0, 1, 1, 1, 1, 1], // and after every third digit, see below
  /* other   */ [0, 0, 1, 0, 1, 0, 0, 0], // punctuation may stand before a word in one piece
  /* space   */ [0, 0, 0, 0, 0, 0, 0, 0], // a space goes with what follows
  /* newline */ [1, 1, 1, 1, 0, 0, 1, 0],
  /* tail    */ [1, 1, 1, 1, 1, 0, 1, 0]
].flat()

/** The class of each code unit, surrogates aside. 64 KiB, made in about a millisecond. */
export function createClasses(): Uint8Array {
  const classes = new Uint8Array(65_536).fill(other)
  let units = ''
  for (let unit = 0; unit < 65_536; unit++) units += unit >= 0xd800 && unit <= 0xdfff ? '\0' : String.fromCharCode(unit)
  const fill = (pattern: RegExp, kind: number): void => {
    for (const { index, 0: run } of units.matchAll(pattern)) classes.fill(kind, index, index + run.length)
  }
  fill(/\p{L}+/gu, letter)
  fill(/\p{M}+/gu, mark)
  fill(/\p{N}+/gu, digit)
  fill(/\p{White_Space}+/gu, space)
  classes[10] = classes[13] = newline
  classes[39] = apostrophe
  classes[47] = slash
  return classes
}

export function createSplitter(classes: Uint8Array, onSlice: (slice: string) => void): Splitter {
  let held = ''
  let at = 0 // everything before it has been looked at
  let safe = 0 // the last safe boundary
  let state = space
  let digits = 0 // of the run that ends at `at`

  function push(text: string): void {
    held = held === '' ? text : held + text
    let start = 0
    while (at < held.length) {
      const unit = held.charCodeAt(at)
      let kind = classes[unit] as number
      let width = 1
      if (unit >= 0xd800 && unit < 0xdc00) {
        if (at + 1 === held.length) break // its other half may come with the next push
        const low = held.charCodeAt(at + 1)
        if (low >= 0xdc00 && low < 0xe000) {
          width = 2
          kind = classOf(held.slice(at, at + 2))
        }
      }
      if (kind === digit) digits = state === digit ? digits + 1 : 1
      if (safeBefore[state * 8 + kind] === 1 || (kind === digit && state === digit && digits % 3 === 1)) safe = at
      else if (at - safe >= maxPiece) {
        onSlice(held.slice(start, at))
        start = safe = at
      }
      if (at - start >= maxSlice && safe > start) {
        onSlice(held.slice(start, safe))
        start = safe
      }
      if (kind === newline) state = state === other || state === tail ? tail : newline
      else state = kind > newline ? other : kind
      at += width
    }
    if (safe > start) onSlice(held.slice(start, safe))
    held = held.slice(safe)
    at -= safe
    safe = 0
  }

  return { push, rest: () => held }
}

/** Of a character outside the basic plane. */
function classOf(character: string): number {
  if (/\p{L}/u.test(character)) return letter
  if (/\p{M}/u.test(character)) return mark
  return /\p{N}/u.test(character) ? digit : other
}
