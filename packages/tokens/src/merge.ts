import { HeapMerge } from './heap-merge.ts'
import { maxPiece, Piece } from './piece.ts'
import { hashed, hashOf, hashPowers, maxTokens, mix, none, type Ranks } from './ranks.ts'

const memoBits = 16

/** More of them in a piece, and the search from left to right is given up. */
const maxDeadEnds = 4

/** Tokens at the end of a piece that are likely to change when it grows. */
const unsettled = 2

/**
 * Counts the tokens of a piece that is not one token itself.
 *
 * Byte-pair encoding merges the pair of lowest rank again and again. The same tokens are found from left to right: a row of
 * tokens is the encoding of its bytes exactly when each two neighbours are the encoding of theirs. So the longest token is
 * taken that agrees with the one before it; where none agrees, the token before it was wrong. That is seldom in anything
 * that was ever written; where it is often, as in rules of dashes, the merging is done by the book.
 */
export class Merger {
  readonly #ranks: Ranks
  /** How long the tokens are that begin with three bytes, hashed: bit n tells of n bytes, bit 0 of 32 and more. */
  readonly #lengths: Uint32Array = new Uint32Array(1 << memoBits)
  /** The lengths of 32 and more, the longest first, by the hash of the first 32 bytes. */
  readonly #longLengths: Map<number, number[]> = new Map()
  readonly #powers: Int32Array
  /** Of tokens, once asked for: the two that were merged to make it. */
  readonly #lefts: Int32Array
  readonly #rights: Int32Array
  /** Pairs that were looked at: twice the pair, and 1 more when they agree. */
  readonly #agreed: Float64Array = new Float64Array(1 << memoBits)
  readonly #scratch: Uint8Array
  /** Places of the piece at hand from where no row of tokens leads to its end. */
  readonly #dead: Uint8Array = new Uint8Array(maxPiece + 1)
  readonly #own: Piece = new Piece()
  readonly #heapMerge: HeapMerge = new HeapMerge()
  readonly #rankOf = (from: number, end: number): number =>
    end - from > this.#ranks.longest ? none : this.#tokenAt(from, end - from)
  #piece: Piece = this.#own
  #text: Uint8Array = new Uint8Array(0)
  #from = 0

  constructor(ranks: Ranks) {
    this.#ranks = ranks
    this.#own.reserve(maxPiece)
    this.#powers = hashPowers(ranks.longest + 1)
    this.#lefts = new Int32Array(ranks.size).fill(none)
    this.#rights = new Int32Array(ranks.size)
    this.#scratch = new Uint8Array(ranks.longest)
    const { starts, bytes, size } = ranks
    for (let rank = 0; rank < size; rank++) {
      const start = starts[rank] as number
      const length = (starts[rank + 1] as number) - start
      if (length < 3) continue
      this.#lengths[place(hashOf(bytes, start, start + 3))]! |= length < 32 ? 1 << length : 1
      if (length < 32) continue
      const hash = hashOf(bytes, start, start + 32)
      const lengths = this.#longLengths.get(hash)
      if (lengths === undefined) this.#longLengths.set(hash, [length])
      else if (!lengths.includes(length)) lengths.push(length)
    }
    for (const lengths of this.#longLengths.values()) lengths.sort((one, other) => other - one)
  }

  /** Tokens of `text` from `from` up to `end`, at most `maxPiece` bytes and at least one. */
  count(text: Uint8Array, from: number, end: number): number {
    this.#own.size = 0
    return this.countGrown(this.#own, text, from, end)
  }

  /**
   * What of the piece counted last may be otherwise when the text goes on behind it: the tokens of its last eighth, as long
   * as the longest token. What is before them is the encoding whatever comes, or nearly always.
   */
  unsettled(text: Uint8Array, from: number): { readonly tokens: number; readonly bytes: number } {
    const { size, count, starts } = this.#own
    for (let index = count - 1; index > 0; index--) {
      const start = starts[index] as number
      // The next piece has to begin with a whole character.
      if (start > size - maxPiece / 8 || ((text[from + start] as number) & 0xc0) === 0x80) continue
      return { tokens: count - index, bytes: size - start }
    }
    return { tokens: 0, bytes: 0 }
  }

  /** The same of a piece that has grown: what it had, the text from `from` has still. */
  countGrown(piece: Piece, text: Uint8Array, from: number, end: number): number {
    const size = end - from
    const { hashes, tokens, starts } = piece
    if (piece.size === 0 || size < piece.size) piece.size = piece.count = 0
    let hash = hashes[piece.size] as number
    for (let at = piece.size; at < size; at++) {
      hash = hashed(hash, text[from + at] as number)
      hashes[at + 1] = hash
    }
    piece.size = size
    if (size <= this.#ranks.longest && this.#ranks.find(text, from, end, hash) !== none) return 1
    this.#piece = piece
    this.#text = text
    this.#from = from

    // Tokens that agree with one another are the encoding wherever the search began; only its failure tells nothing.
    let settled = Math.max(0, piece.count - unsettled)
    let count = settled
    let at = count === 0 ? 0 : (starts[count] as number)
    let below = size + 1 // tokens of this length and more were tried at `at`
    let deadEnds = 0
    while (at < size) {
      const token = this.#longestBelow(below, at, count === 0 ? none : (tokens[count - 1] as number))
      if (token !== none) {
        tokens[count] = token
        starts[count] = at
        count++
        at += this.#length(token)
        below = size + 1
      } else if (count === settled) {
        settled = count = at = 0
        below = size + 1
        this.#dead.fill(0, 0, size)
      } else {
        if (++deadEnds > maxDeadEnds) {
          this.#heapMerge.merge(piece, this.#rankOf)
          count = piece.count
          break
        }
        this.#dead[at] = 1
        count--
        const last = starts[count] as number
        const length = at - last
        // One like the token before it was tried first, and all others are left.
        const wasFirst = length >= 32 && count > 0 && length === last - (starts[count - 1] as number)
        below = wasFirst ? size : length
        at = last
      }
    }
    if (deadEnds > 0) this.#dead.fill(0, 0, size)
    piece.count = count
    return count
  }

  /** The longest token at `at` that is shorter than `below`, leads to no dead end, and agrees with the one before it. */
  #longestBelow(below: number, at: number, before: number): number {
    const left = Math.min(this.#piece.size - at, below - 1)
    let lengths = 6
    if (left >= 3) {
      lengths |= this.#lengths[place(this.#hash(at, 3))] as number
      if ((lengths & 1) === 1 && left >= 32) {
        const token = this.#longFitting(below, at, before)
        if (token !== none) return token
      }
    }
    lengths &= left >= 31 ? -2 : (2 << left) - 2
    while (lengths !== 0) {
      const length = 31 - Math.clz32(lengths)
      lengths ^= 1 << length
      const token = this.#fitting(at, length, before)
      if (token !== none) return token
    }
    return none
  }

  /** Of 32 bytes and more: rules and indentation, in which a token mostly comes again. To try it first spares dead ends. */
  #longFitting(below: number, at: number, before: number): number {
    const left = this.#piece.size - at
    const same = before === none ? 0 : this.#length(before)
    if (below > this.#piece.size && same >= 32 && same <= left) {
      const token = this.#fitting(at, same, before)
      if (token !== none) return token
    }
    for (const length of this.#longLengths.get(this.#hash(at, 32)) ?? []) {
      if (length >= below || length > left || length === same) continue
      const token = this.#fitting(at, length, before)
      if (token !== none) return token
    }
    return none
  }

  #fitting(at: number, length: number, before: number): number {
    if (this.#dead[at + length] === 1) return none
    const token = this.#tokenAt(at, length)
    return token === none || before === none || this.#agree(before, token) ? token : none
  }

  #tokenAt(at: number, length: number): number {
    const hash = this.#hash(at, length)
    if (!this.#ranks.mayHave(hash)) return none
    const from = this.#from + at
    return this.#ranks.find(this.#text, from, from + length, hash)
  }

  /** Of the bytes of the piece from `at` on. */
  #hash(at: number, length: number): number {
    const { hashes } = this.#piece
    return ((hashes[at + length] as number) - Math.imul(hashes[at] as number, this.#powers[length] as number)) | 0
  }

  /** Whether the bytes of both together are encoded as these two tokens. */
  #agree(left: number, right: number): boolean {
    const pair = 2 * (left * maxTokens + right + 1)
    const slot = (Math.imul(left, 0x2c1b3c6d) ^ Math.imul(right, 0x297a2d39)) >>> (32 - memoBits)
    const known = this.#agreed[slot] as number
    if (known === pair) return false
    if (known === pair + 1) return true
    const agree = this.#isEncoding(left, right)
    this.#agreed[slot] = agree ? pair + 1 : pair
    return agree
  }

  /**
   * Takes the two apart again, last merge first. If the two tokens beside the seam would have been merged before the merge
   * that was undone, there would be no seam. Of merges of one rank the leftmost comes first.
   */
  #isEncoding(first: number, second: number): boolean {
    let left = first
    let right = second
    let before = 0x7fffffff
    for (;;) {
      const across = this.#joined(left, right)
      if (across !== none && across < before) return false
      const leftIsByte = this.#length(left) === 1
      if (this.#length(right) === 1 || (left > right && !leftIsByte)) {
        if (leftIsByte) return true
        before = left
        this.#split(left)
        left = this.#rights[left] as number
      } else {
        before = right + 1
        this.#split(right)
        right = this.#lefts[right] as number
      }
    }
  }

  #length(token: number): number {
    return (this.#ranks.starts[token + 1] as number) - (this.#ranks.starts[token] as number)
  }

  /** The token of two tokens' bytes, or `none`. */
  #joined(left: number, right: number): number {
    const { starts, bytes, longest } = this.#ranks
    const leftStart = starts[left] as number
    const leftEnd = starts[left + 1] as number
    const rightStart = starts[right] as number
    const rightEnd = starts[right + 1] as number
    const size = leftEnd - leftStart + rightEnd - rightStart
    if (size > longest) return none
    const { hashes } = this.#ranks
    const moved = Math.imul(hashes[left] as number, this.#powers[rightEnd - rightStart] as number)
    const hash = (moved + (hashes[right] as number)) | 0
    if (!this.#ranks.mayHave(hash)) return none
    const scratch = this.#scratch
    let end = 0
    for (let at = leftStart; at < leftEnd; at++) scratch[end++] = bytes[at] as number
    for (let at = rightStart; at < rightEnd; at++) scratch[end++] = bytes[at] as number
    return this.#ranks.find(scratch, 0, size, hash)
  }

  /** The token that is these bytes of the vocabulary. */
  #part(from: number, end: number): number {
    const { bytes } = this.#ranks
    return this.#ranks.find(bytes, from, end, hashOf(bytes, from, end))
  }

  /** Finds the two tokens that were merged to make this one, by merging its bytes until two are left. */
  #split(token: number): void {
    if (this.#lefts[token] !== none) return
    const start = this.#ranks.starts[token] as number
    const ends = Array.from({ length: this.#length(token) }, (_, index) => start + index + 1)
    while (ends.length > 2) {
      let lowest = maxTokens
      let where = 0
      for (let index = 0; index + 1 < ends.length; index++) {
        const rank = this.#part(index === 0 ? start : (ends[index - 1] as number), ends[index + 1] as number)
        if (rank !== none && rank < lowest) {
          lowest = rank
          where = index
        }
      }
      ends.splice(where, 1)
    }
    const [seam = 0, end = 0] = ends
    this.#lefts[token] = this.#part(start, seam)
    this.#rights[token] = this.#part(seam, end)
  }
}

/** Of a hash, in a table. */
function place(hash: number): number {
  return mix(hash) >>> (32 - memoBits)
}
