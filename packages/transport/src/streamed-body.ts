import { MillraceError } from '@millrace/core'

/**
 * The bytes of a caller's stream on their way out, which can be sent once. That the stream fails is the caller's doing, not
 * the connection's: it is `invalid-request`, which no layer tries again or counts against the server.
 */
export class StreamedBody implements AsyncIterableIterator<Uint8Array, undefined> {
  readonly #held: Uint8Array[]
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>

  /** `held` has been read from the stream already. */
  constructor(reader: ReadableStreamDefaultReader<Uint8Array>, held: readonly Uint8Array[] = []) {
    this.#reader = reader
    this.#held = [...held]
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async next(): Promise<IteratorResult<Uint8Array, undefined>> {
    const value = this.#held.shift()
    if (value !== undefined) return { done: false, value }
    const read = await this.#reader.read().catch((error: unknown) => Promise.reject(failed('its stream failed', error)))
    if (read.done) return { done: true, value: undefined }
    if (read.value instanceof Uint8Array) return read
    this.cancel()
    throw failed('a piece of its stream is no Uint8Array')
  }

  async return(): Promise<IteratorResult<Uint8Array, undefined>> {
    this.cancel()
    return { done: true, value: undefined }
  }

  /** Tells the stream that nobody will read the rest. */
  cancel(reason?: unknown): void {
    this.#held.length = 0
    this.#reader.cancel(reason).catch(() => {}) // why the call ended is told already; what cleaning up says is the stream's own
  }
}

/**
 * What a caller gave as a stream, ready to be sent.
 *
 * @throws {MillraceError} `invalid-request` for one that is locked, or that cannot be begun
 */
export function streamedBody(body: AsyncIterable<Uint8Array>): StreamedBody {
  try {
    return new StreamedBody((body instanceof ReadableStream ? body : ReadableStream.from(body)).getReader())
  } catch (error) {
    throw failed('it is neither text nor bytes, nor a stream that can be read', error)
  }
}

function failed(what: string, cause?: unknown): MillraceError<'invalid-request'> {
  return new MillraceError('invalid-request', `the body could not be sent: ${what}`, { details: { path: 'body' }, cause })
}
