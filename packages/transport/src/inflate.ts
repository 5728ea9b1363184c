import type { Transform } from 'node:stream'
import { constants, createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib'
import { type HttpBody, type HttpResponse, MillraceError } from '@millrace/core'
import { isEventStream } from './exchange.ts'
import { iterate, readText } from './pieces.ts'

const decoders: Readonly<Record<string, () => Transform>> = {
  gzip: createGunzip,
  'x-gzip': createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
  // RFC 9659, section 3: no more is asked of a client; the decoder would take 128 MiB for a window a server names.
  zstd: () => createZstdDecompress({ params: { [constants.ZSTD_d_windowLogMax]: 23 } })
}

/**
 * The response with its content encoding undone, at most `maxBytes` of it: a small body can hold a very large one. Of a
 * stream there is no bound on the whole, and never more than a few pieces in memory: the server waits for the reader. We
 * ask for no encoding, but some gateways compress whatever is asked. One encoding only; a list of them is an attack or a
 * bug.
 */
export function inflate(response: HttpResponse, maxBytes: number, signal: AbortSignal | undefined): HttpResponse {
  const { status } = response
  const encoding = response.headers['content-encoding']?.trim().toLowerCase()
  if (encoding === undefined || encoding === '' || encoding === 'identity') return response
  const create = Object.hasOwn(decoders, encoding) ? decoders[encoding] : undefined
  if (create === undefined) {
    response.body.cancel()
    throw new MillraceError('protocol', 'the response has a content encoding that cannot be undone', {
      details: { reason: 'encoding', status }
    })
  }
  const { 'content-encoding': _, 'content-length': __, ...headers } = response.headers
  const body = new InflatedBody(response.body, create, {
    maxTextBytes: maxBytes,
    maxBytes: status < 400 && isEventStream(headers) ? Number.POSITIVE_INFINITY : maxBytes,
    beyond: status < 400 ? 'fails' : 'ends',
    signal
  })
  return { ...response, headers, body }
}

interface Bounds {
  readonly maxBytes: number
  readonly maxTextBytes: number
  /** What there is too much of fails; of a refusal, what came is the body. */
  readonly beyond: 'fails' | 'ends'
  readonly signal: AbortSignal | undefined
}

/** Pulls: nothing is read of the source, and no decoder made, before somebody reads. */
class InflatedBody implements HttpBody {
  readonly #source: HttpBody
  readonly #create: () => Transform
  readonly #bounds: Bounds
  #decoder: Transform | undefined
  #bytes = 0
  #ended = false
  #over = false
  /** Told behind what was inflated before it. */
  #failure: { readonly error: unknown } | undefined
  #reader: PromiseWithResolvers<void> | undefined

  constructor(source: HttpBody, create: () => Transform, bounds: Bounds) {
    this.#source = source
    this.#create = create
    this.#bounds = bounds
  }

  get complete(): boolean {
    return this.#ended
  }

  [Symbol.asyncIterator](): AsyncIterator<readonly Uint8Array[], undefined> {
    return iterate(
      () => this.#next(),
      () => this.cancel()
    )
  }

  text(maxBytes: number = this.#bounds.maxTextBytes): Promise<string> {
    return readText(
      () => this.#next(),
      maxBytes,
      (error) => this.#end(error)
    )
  }

  cancel(reason?: unknown): void {
    if (this.#ended) return
    this.#end(reason ?? new MillraceError('closed', 'the body was cancelled by its reader', { details: {} }))
  }

  async #next(): Promise<IteratorResult<readonly Uint8Array[], undefined>> {
    const { maxBytes, beyond, signal } = this.#bounds
    for (;;) {
      if (signal?.aborted === true && !this.#ended) this.#end(signal.reason)
      const piece = this.#read()
      if (piece !== undefined) {
        this.#bytes += piece.byteLength
        const excess = this.#bytes - maxBytes
        if (excess <= 0) return { done: false, value: [piece] }
        this.#end(tooLarge(maxBytes))
        if (beyond === 'fails') continue
        this.#ended = true
        return { done: false, value: [piece.subarray(0, piece.byteLength - excess)] }
      }
      if (this.#ended) return { done: true, value: undefined }
      if (this.#failure !== undefined) throw this.#failure.error
      this.#reader ??= Promise.withResolvers<void>()
      await this.#reader.promise
    }
  }

  #read(): Uint8Array | undefined {
    if (this.#over) return undefined
    this.#decoder ??= this.#start()
    return (this.#decoder.read() as Uint8Array | null) ?? undefined
  }

  #start(): Transform {
    const decoder = this.#create()
    const wake = (): void => this.#wake()
    decoder.on('readable', wake)
    decoder.on('end', () => {
      this.#ended = true
      wake()
    })
    decoder.on('error', (cause) => {
      const error = new MillraceError('protocol', 'the compressed response is corrupt or cut', {
        details: { reason: 'encoding' },
        cause
      })
      this.#failure ??= { error }
      this.#source.cancel(error)
      wake()
    })
    this.#feed(decoder).catch((error: unknown) => {
      this.#failure ??= { error }
      wake()
    })
    return decoder
  }

  /** One piece at a time: each is taken when what the one before has become is nearly read. */
  async #feed(decoder: Transform): Promise<void> {
    let isEmpty = true
    for await (const batch of this.#source) {
      for (const piece of batch) {
        if (decoder.destroyed) return
        isEmpty = false
        await new Promise<void>((resolve) => {
          decoder.write(piece, () => resolve())
        })
      }
    }
    // The answer to a HEAD may name an encoding; of no bytes it makes none.
    if (isEmpty) {
      this.#ended = true
      this.#wake()
    }
    decoder.end()
  }

  /** Nothing is read any more, what was inflated and not read included; gives the error back. */
  #end(error: unknown): unknown {
    this.#over = true
    this.#failure = { error }
    this.#source.cancel(error)
    this.#decoder?.destroy()
    this.#wake()
    return error
  }

  #wake(): void {
    const reader = this.#reader
    this.#reader = undefined
    reader?.resolve()
  }
}

function tooLarge(maxBytes: number): MillraceError<'protocol'> {
  return new MillraceError('protocol', `the response inflates to more than ${maxBytes} bytes`, {
    details: { reason: 'too-large' }
  })
}
