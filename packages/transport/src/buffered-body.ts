import { type HttpBody, MillraceError } from '@millrace/core'

/** A body that has been read already, to be read again by the next one. */
export function bufferedBody(text: string): HttpBody {
  return {
    async *[Symbol.asyncIterator]() {
      if (text !== '') yield [new TextEncoder().encode(text)]
    },
    async text(maxBytes = Number.POSITIVE_INFINITY) {
      if (Buffer.byteLength(text) <= maxBytes) return text
      throw new MillraceError('protocol', `the response is longer than ${maxBytes} bytes`, { details: { reason: 'too-large' } })
    },
    cancel() {}
  }
}
