import type { HttpBody } from '@millrace/core'
import { tooLarge } from '../src/pieces.ts'

/** A body that has been read already, to be read again by the next one. */
export function bufferedBody(text: string): HttpBody {
  return {
    async *[Symbol.asyncIterator]() {
      if (text !== '') yield [new TextEncoder().encode(text)]
    },
    async text(maxBytes = Number.POSITIVE_INFINITY) {
      if (Buffer.byteLength(text) <= maxBytes) return text
      throw tooLarge(maxBytes)
    },
    cancel() {}
  }
}
