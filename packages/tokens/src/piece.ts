/**
 * A piece longer than this many bytes is cut, which costs at most about two tokens of exactness: in a stream the piece at
 * the end is counted again with every delta. Words, rules of dashes and clauses of Chinese or Thai stay far below it.
 */
export const maxPiece = 1024

/** A piece and its tokens. Where it is kept, it can grow, and only its last tokens are looked for anew. */
export class Piece {
  size = 0
  count = 0
  readonly tokens: Int32Array = new Int32Array(maxPiece)
  readonly starts: Int32Array = new Int32Array(maxPiece + 1)
  /** Of the bytes before each place. */
  readonly hashes: Int32Array = new Int32Array(maxPiece + 1)
}
