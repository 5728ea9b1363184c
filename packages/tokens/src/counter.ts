import { maxPiece, Piece } from './piece.ts'
import type { Progress, Vocabulary } from './vocabulary.ts'

/** The running total of a text that comes in pieces. */
export interface TokenCounter {
  /** Adds text; gives the tokens of everything pushed so far, joined. May fall by a token or two when pieces merge. */
  push(text: string): number
}

/** Characters that are counted at once: about 5 ms where each costs most. */
export const sliceChars = 16_384

/** Bytes a slice can take, with the piece before it that is still open, and with what was counted and is not yet let go. */
const maxBytes: number = 4 * sliceChars

/** Longer texts are written by the platform, whose call costs as much as these in a loop. */
const shortChars = 32

const replacement = Buffer.from('\ufffd')

/** A text on its way into tokens. It holds the bytes of one open piece, and of one slice while that is counted. */
export class TextCount {
  readonly #vocabulary: Vocabulary
  readonly #progress: Progress = { at: 0, closed: 0, open: 0, piece: new Piece() }
  // The same bytes: typed arrays are read faster, buffers know how to write strings.
  #bytes: Uint8Array = new Uint8Array(0)
  #buffer: Buffer = Buffer.from(this.#bytes.buffer)
  #end = 0
  /** A high surrogate whose other half may come, and the total with it. */
  #half = ''
  #withHalf: number | undefined

  constructor(vocabulary: Vocabulary) {
    this.#vocabulary = vocabulary
  }

  /** Tokens that no more text can change. */
  get closed(): number {
    return this.#progress.closed
  }

  /** Adds a text of any length, in one go. */
  push(text: string): void {
    if (text.length <= sliceChars) this.add(text)
    else for (let at = 0; at < text.length; at += sliceChars) this.add(text.slice(at, at + sliceChars))
  }

  /** Adds at most `sliceChars` characters. */
  add(slice: string): void {
    if (slice === '') return
    let text = slice
    this.#withHalf = undefined
    if (this.#half !== '') {
      text = this.#half + slice
      this.#half = ''
    }
    const last = text.charCodeAt(text.length - 1)
    if (last >= 0xd800 && last < 0xdc00) {
      this.#half = text.slice(-1)
      text = text.slice(0, -1)
    }
    this.#reserve(3 * text.length + replacement.length)
    if (text.length > shortChars) this.#end += this.#buffer.write(text, this.#end)
    else this.#writeShort(text)
    this.#vocabulary.advance(this.#progress, this.#bytes, this.#end)
  }

  /** Tokens so far, if the text ended here. */
  total(): number {
    const { closed, open } = this.#progress
    if (this.#half === '') return closed + open
    if (this.#withHalf !== undefined) return this.#withHalf
    this.#bytes.set(replacement, this.#end)
    const whole = { ...this.#progress, piece: new Piece() }
    this.#vocabulary.advance(whole, this.#bytes, this.#end + replacement.length)
    this.#withHalf = whole.closed + whole.open
    return this.#withHalf
  }

  /** Gives back the room that a long text took: a stream goes on in small pieces. */
  shrink(): void {
    if (this.#bytes.length <= maxPiece * 4) return
    const { at } = this.#progress
    this.#hold(this.#bytes.slice(at, this.#end + replacement.length), this.#end - at)
  }

  clear(): void {
    this.#progress.at = this.#progress.closed = this.#progress.open = 0
    this.#progress.piece.size = 0
    this.#end = 0
    this.#half = ''
    this.#withHalf = undefined
  }

  /** Makes room behind the end: lets go of what is counted, or else takes more. */
  #reserve(more: number): void {
    if (this.#end + more <= this.#bytes.length) return
    const { at } = this.#progress
    const held = this.#end - at
    let bytes = this.#bytes
    if (held + more <= bytes.length) bytes.copyWithin(0, at, this.#end)
    else {
      bytes = new Uint8Array(Math.min(4 * (held + more), maxBytes))
      bytes.set(this.#bytes.subarray(at, this.#end))
    }
    this.#hold(bytes, held)
  }

  #hold(bytes: Uint8Array, end: number): void {
    if (bytes !== this.#bytes) this.#buffer = Buffer.from(bytes.buffer)
    this.#bytes = bytes
    this.#end = end
    this.#progress.at = 0
  }

  /** In UTF-8, as `Buffer.write` has it: half a surrogate pair becomes U+FFFD. */
  #writeShort(text: string): void {
    const bytes = this.#bytes
    let end = this.#end
    for (let at = 0; at < text.length; at++) {
      const unit = text.charCodeAt(at)
      if (unit < 0x80) bytes[end++] = unit
      else if (unit < 0x800) {
        bytes[end++] = 0xc0 | (unit >> 6)
        bytes[end++] = 0x80 | (unit & 0x3f)
      } else if (unit < 0xd800 || unit > 0xdfff) {
        bytes[end++] = 0xe0 | (unit >> 12)
        bytes[end++] = 0x80 | ((unit >> 6) & 0x3f)
        bytes[end++] = 0x80 | (unit & 0x3f)
      } else {
        // Rare enough to let the platform do the rest.
        end += this.#buffer.write(text.slice(at), end)
        break
      }
    }
    this.#end = end
  }
}
