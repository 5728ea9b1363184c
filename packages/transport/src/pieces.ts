import { MillraceError } from '@millrace/core'

/** Below this a piece is copied together with its neighbours. */
const smallBytes = 1024

/** So many small pieces in a row are copied together at a time. */
const smallPieces = 256

/**
 * The pieces of a body, in order. Small ones are copied together: a piece costs some hundred bytes beside its own and keeps
 * the whole read alive that it came in, so a server that sends one byte at a time would fill memory far below any bound.
 */
export class Pieces {
  bytes = 0
  #list: Uint8Array[] = []
  #small = 0

  get length(): number {
    return this.#list.length
  }

  push(piece: Uint8Array): void {
    this.#list.push(piece)
    this.bytes += piece.byteLength
    if (piece.byteLength >= smallBytes) this.#small = 0
    else if (++this.#small === smallPieces) {
      this.#list.push(Buffer.concat(this.#list.splice(-smallPieces)))
      this.#small = 0
    }
  }

  pushAll(pieces: Iterable<Uint8Array>): void {
    for (const piece of pieces) this.push(piece)
  }

  /** All there is; behind it there is nothing. */
  take(): readonly Uint8Array[] {
    const list = this.#list
    this.#list = []
    this.#small = 0
    this.bytes = 0
    return list
  }

  /** In one go: a decoder that takes pieces builds an ICU converter for each body, which costs more than the decoding. */
  text(): string {
    const [only] = this.#list
    return utf8.decode(this.#list.length === 1 ? only : Buffer.concat(this.#list, this.bytes))
  }
}

/** Without `stream: true` it keeps nothing between calls. */
const utf8 = new TextDecoder()

type Batch = IteratorResult<readonly Uint8Array[], undefined>

/** The iterator of a body: leaving the loop gives up the rest. */
export function iterate(next: () => Promise<Batch>, cancel: () => void): AsyncIterator<readonly Uint8Array[], undefined> {
  return {
    next,
    return() {
      cancel()
      return Promise.resolve({ done: true, value: undefined })
    }
  }
}

/**
 * Reads a body to its end as text. `cancel` is called when it is longer than `maxBytes`.
 *
 * @throws {MillraceError} `protocol` with `reason: 'too-large'`; whatever `next` rejects with
 */
export async function readText(next: () => Promise<Batch>, maxBytes: number, cancel: (error: unknown) => void): Promise<string> {
  const pieces = new Pieces()
  for (;;) {
    const { done, value } = await next()
    if (done === true) return pieces.text()
    pieces.pushAll(value)
    if (pieces.bytes <= maxBytes) continue
    const error = tooLarge(maxBytes)
    cancel(error)
    throw error
  }
}

/** The error of a response beyond its bound, read or only counted. */
export function tooLarge(maxBytes: number): MillraceError<'protocol'> {
  return new MillraceError('protocol', `the response is longer than ${maxBytes} bytes (maxResponseBytes)`, {
    details: { reason: 'too-large' }
  })
}
