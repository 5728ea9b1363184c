import { maxPiece, type Piece } from './piece.ts'
import { none } from './ranks.ts'

const placeBits = 10 // a place is below maxPiece, and with it a rank of 18 bits fits an integer of 31
const placeMask: number = maxPiece - 1

/** The rank of the token between two places of the piece, or `none`. */
type RankOf = (from: number, end: number) => number

/**
 * Byte-pair encoding by the book: merges the pair of lowest rank, the leftmost of equals, until none is left. Slower than
 * `Merger` on nearly every text, but never slow: the time is n log n in the piece, whatever is in it.
 */
export class HeapMerge {
  /** Pairs to merge: rank above, place below, so that the least number is the one to merge first. Outdated ones stay in it. */
  readonly #heap: Int32Array = new Int32Array(4 * maxPiece)
  #size = 0
  /** By the place where a token begins. */
  readonly #ends: Int32Array = new Int32Array(maxPiece)
  readonly #before: Int32Array = new Int32Array(maxPiece + 1)
  /** The rank of the pair that begins at a place. */
  readonly #pairs: Int32Array = new Int32Array(maxPiece)

  /** Fills the tokens of the piece. */
  merge(piece: Piece, rankOf: RankOf): void {
    const ends = this.#ends
    const before = this.#before
    const { size } = piece
    this.#size = 0
    for (let at = 0; at < size; at++) {
      ends[at] = at + 1
      before[at + 1] = at
    }
    for (let at = 0; at < size; at++) this.#offer(at, size, rankOf)
    while (this.#size > 0) {
      const least = this.#take()
      const at = least & placeMask
      if (this.#pairs[at] !== least >> placeBits) continue
      const right = ends[at] as number
      const end = ends[right] as number
      this.#pairs[right] = none
      ends[at] = end
      before[end] = at
      if (at > 0) this.#offer(before[at] as number, size, rankOf)
      this.#offer(at, size, rankOf)
    }
    piece.count = 0
    for (let at = 0; at < size; at = ends[at] as number) {
      piece.starts[piece.count] = at
      piece.tokens[piece.count++] = rankOf(at, ends[at] as number)
    }
  }

  #offer(at: number, size: number, rankOf: RankOf): void {
    const right = this.#ends[at] as number
    const rank = right === size ? none : rankOf(at, this.#ends[right] as number)
    this.#pairs[at] = rank
    if (rank === none) return
    const heap = this.#heap
    const added = (rank << placeBits) | at
    let slot = this.#size++
    while (slot > 0) {
      const parent = (slot - 1) >> 1
      if ((heap[parent] as number) <= added) break
      heap[slot] = heap[parent] as number
      slot = parent
    }
    heap[slot] = added
  }

  #take(): number {
    const heap = this.#heap
    const least = heap[0] as number
    const last = heap[--this.#size] as number
    let slot = 0
    for (;;) {
      let child = 2 * slot + 1
      if (child >= this.#size) break
      if (child + 1 < this.#size && (heap[child + 1] as number) < (heap[child] as number)) child++
      if ((heap[child] as number) >= last) break
      heap[slot] = heap[child] as number
      slot = child
    }
    heap[slot] = last
    return least
  }
}
