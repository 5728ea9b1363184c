import { Characters } from './characters.ts'
import { Merger } from './merge.ts'
import type { Encoding } from './model.ts'
import type { Piece } from './piece.ts'
import type { Ranks } from './ranks.ts'
import { type Pattern, Scanner } from './scanner.ts'

const patterns: Readonly<Record<Encoding, Pattern>> = {
  o200k_base: 'o200k',
  cl100k_base: 'cl100k',
  p50k_base: 'gpt2',
  r50k_base: 'gpt2'
}

/** How far a text has been counted. */
export interface Progress {
  /** Where the first piece begins that could be another one if text followed. */
  at: number
  /** Tokens before it: no more text can change them. */
  closed: number
  /** Tokens behind it, if the text ended here. */
  open: number
  /** Of a text that grows: the piece at `at`. */
  readonly piece: Piece
}

/** Counts the tokens of UTF-8 bytes: splits them into pieces, and merges those that are no token as they stand. */
export class Vocabulary {
  readonly #ranks: Ranks
  readonly #scanner: Scanner
  readonly #merger: Merger

  constructor(encoding: Encoding, ranks: Ranks) {
    this.#ranks = ranks
    this.#scanner = new Scanner(patterns[encoding], new Characters())
    this.#merger = new Merger(ranks)
  }

  /** Bytes of the longest token. */
  get longest(): number {
    return this.#ranks.longest
  }

  /** Counts what stands between `progress.at` and `end`, which is where the text ends so far. */
  advance(progress: Progress, bytes: Uint8Array, end: number): void {
    const scanner = this.#scanner
    const merger = this.#merger
    let at = progress.at
    let closed = progress.closed
    let open = 0
    let isOpen = false
    while (at < end) {
      let pieceEnd = scanner.pieceEnd(bytes, at, end)
      isOpen ||= scanner.isOpen
      if (isOpen) {
        const isFirst = at === progress.at
        if (isFirst) {
          progress.piece.reserve(pieceEnd - at)
          open += merger.countGrown(progress.piece, bytes, at, pieceEnd)
        } else open += merger.count(bytes, at, pieceEnd)
      } else {
        closed += merger.count(bytes, at, pieceEnd)
        if (scanner.isCut) {
          const unsettled = merger.unsettled(bytes, at)
          closed -= unsettled.tokens
          pieceEnd -= unsettled.bytes
        }
        progress.at = pieceEnd
        progress.piece.size = 0
      }
      at = pieceEnd
    }
    progress.closed = closed
    progress.open = open
  }
}
