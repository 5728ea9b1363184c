import { finished, type Transform } from 'node:stream'
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib'
import { type HttpBody, type HttpResponse, MillraceError, onAbort } from '@millrace/core'
import { decode, isEventStream } from './exchange.ts'

const decoders: Readonly<Record<string, () => Transform>> = {
  gzip: createGunzip,
  'x-gzip': createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
  zstd: createZstdDecompress
}

/**
 * The response with its content encoding undone, at most `maxBytes` of it: a small body can hold a very large one. We ask
 * for no encoding, but some gateways compress whatever is asked. One encoding only; a list of them is an attack or a bug.
 */
export function inflate(response: HttpResponse, maxBytes: number, signal: AbortSignal | undefined): HttpResponse {
  const encoding = response.headers['content-encoding']?.trim().toLowerCase()
  if (encoding === undefined || encoding === '' || encoding === 'identity') return response
  const create = Object.hasOwn(decoders, encoding) ? decoders[encoding] : undefined
  if (create === undefined) {
    response.body.cancel()
    throw new MillraceError('protocol', 'the response has a content encoding that cannot be undone', {
      details: { reason: 'encoding', status: response.status }
    })
  }
  const bound = isEventStream(response.headers) ? Number.POSITIVE_INFINITY : maxBytes
  const { 'content-encoding': _, 'content-length': __, ...headers } = response.headers
  return { ...response, headers, body: inflatedBody(response.body, create(), bound, maxBytes, signal) }
}

function inflatedBody(
  source: HttpBody,
  decoder: Transform,
  maxBytes: number,
  textBytes: number,
  signal: AbortSignal | undefined
): HttpBody {
  let bytes = 0
  let cancelled: { readonly reason: unknown } | undefined
  let feeding: Promise<void> | undefined

  async function feed(): Promise<void> {
    for await (const batch of source) {
      for (const piece of batch) {
        if (decoder.destroyed) return
        if (!decoder.write(piece)) await drained(decoder)
      }
    }
    decoder.end()
  }

  async function* batches(): AsyncGenerator<readonly Uint8Array[], void, undefined> {
    // A failure of the source comes out of the decoder, so that there is one place to read it.
    feeding ??= feed().catch((error: unknown) => void decoder.destroy(asError(error)))
    const off = onAbort(signal, (reason) => {
      cancelled ??= { reason }
      cancel()
    })
    try {
      for await (const piece of decoder as AsyncIterable<Uint8Array>) {
        bytes += piece.byteLength
        if (bytes > maxBytes) throw tooLarge(maxBytes)
        yield [piece]
      }
    } catch (error) {
      throw cancelled === undefined ? unwrap(error) : cancelled.reason
    } finally {
      off()
      cancel()
    }
  }

  function cancel(reason?: unknown): void {
    if (reason !== undefined) cancelled ??= { reason }
    source.cancel(reason)
    decoder.destroy()
  }

  return {
    [Symbol.asyncIterator]: () => batches(),
    cancel,
    async text(limit = textBytes) {
      const pieces: Uint8Array[] = []
      let length = 0
      for await (const batch of batches()) {
        for (const piece of batch) {
          length += piece.byteLength
          if (length > limit) throw tooLarge(limit)
          pieces.push(piece)
        }
      }
      return decode(pieces, length)
    }
  }
}

function drained(decoder: Transform): Promise<void> {
  return new Promise((resolve) => {
    const off = finished(decoder, () => done())
    const done = (): void => {
      off()
      decoder.off('drain', done)
      resolve()
    }
    decoder.once('drain', done)
  })
}

function tooLarge(maxBytes: number): MillraceError<'protocol'> {
  return new MillraceError('protocol', `the response inflates to more than ${maxBytes} bytes`, {
    details: { reason: 'too-large' }
  })
}

const carried = Symbol('carried')

/** A stream is destroyed with an Error; what was thrown may be anything and must come out as it went in. */
function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : Object.assign(new Error('aborted'), { [carried]: { reason } })
}

function unwrap(error: unknown): unknown {
  if (error instanceof Error && carried in error) return (error as { [carried]: { reason: unknown } })[carried].reason
  const { code } = error as { code?: unknown }
  if (typeof code === 'string' && /^(Z_|ERR_|ZSTD_|BROTLI|ERR__)/.test(code)) {
    return new MillraceError('protocol', 'the compressed response is corrupt or cut', {
      details: { reason: 'encoding' },
      cause: error
    })
  }
  return error
}
