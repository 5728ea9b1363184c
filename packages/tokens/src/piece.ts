/**
 * A piece longer than this many bytes is cut, since the piece at the end of a stream is kept and looked at with every delta.
 * Words, rules of dashes and clauses of Chinese or Thai stay far below it.
 */
export const maxPiece = 1024

/** A piece and its tokens. Where it is kept, it can grow, and only its last tokens are looked for anew. */
export class Piece {
  size = 0
  count = 0
  tokens: Int32Array = new Int32Array(0)
  starts: Int32Array = this.tokens
  /** Of the bytes before each place. */
  hashes: Int32Array = this.tokens

  /** Makes room for so many bytes. */
  reserve(size: number): void {
    if (size < this.hashes.length) return
    const room = Math.max(64, Math.min(4 * size, maxPiece)) + 1
    this.tokens = grown(this.tokens, room)
    this.starts = grown(this.starts, room)
    this.hashes = grown(this.hashes, room)
  }
}

function grown(numbers: Int32Array, room: number): Int32Array {
  const more = new Int32Array(room)
  more.set(numbers)
  return more
}
