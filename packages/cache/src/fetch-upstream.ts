import { isMillraceError, MillraceError } from '@millrace/core'
import { isEventStream } from './wire-answer.ts'
import { createEndFinder } from './wire-end.ts'
import { bytesOf, type HttpItem, headOf, pieceOf } from './wire-item.ts'
import type { Verdict } from './wire-verdict.ts'

export interface UpstreamOptions {
  readonly send: () => Promise<Response>
  /** Called with the body of a 200 at its end, and before where an event says that it is the last. It may say nothing. */
  readonly judge: (contentType: string | undefined, bytes: Uint8Array) => Verdict | undefined
  /** A longer body is not judged. */
  readonly maxBytes: number
  readonly by: string
  readonly onHead: (headers: Headers) => void
  readonly failures: Failures
}

/** The upstream call as items: read on demand, one read of the body a batch. */
export function openUpstream(options: UpstreamOptions): AsyncIterable<HttpItem> {
  return { [Symbol.asyncIterator]: () => new Upstream(options) }
}

class Upstream implements AsyncIterator<HttpItem, undefined> {
  readonly #options: UpstreamOptions
  #reader: ReadableStreamDefaultReader<Uint8Array> | undefined
  #contentType: string | undefined
  /** The body so far, where it may be kept. */
  #body: string[] | undefined
  #bytes = 0
  #isOver: ((piece: string) => boolean) | undefined
  #waiting: readonly HttpItem[] = []
  ended = false

  constructor(options: UpstreamOptions) {
    this.#options = options
  }

  async nextBatch(): Promise<readonly HttpItem[] | undefined> {
    if (this.ended) return undefined
    try {
      return this.#reader === undefined ? [await this.#open()] : await this.#read(this.#reader)
    } catch (error) {
      this.ended = true
      throw this.#options.failures.asTaken(error, this.#reader === undefined ? 'headers' : 'body')
    }
  }

  async next(): Promise<IteratorResult<HttpItem, undefined>> {
    if (this.#waiting.length === 0) this.#waiting = (await this.nextBatch()) ?? []
    const [value, ...waiting] = this.#waiting
    this.#waiting = waiting
    return value === undefined ? { done: true, value } : { done: false, value }
  }

  async #open(): Promise<HttpItem> {
    const { send, by, onHead } = this.#options
    const response = await send()
    onHead(response.headers)
    this.#contentType = response.headers.get('content-type') ?? undefined
    if (response.body === null) this.ended = true
    else this.#reader = response.body.getReader()
    if (response.status === 200) this.#body = []
    if (this.#body !== undefined && isEventStream(this.#contentType)) this.#isOver = createEndFinder()
    return headOf(response, by)
  }

  async #read(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<readonly HttpItem[] | undefined> {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return this.#end()
      if (value.byteLength === 0) continue
      const piece = pieceOf(value)
      this.#bytes += piece.length
      if (this.#bytes > this.#options.maxBytes) this.#body = undefined
      this.#body?.push(piece)
      return this.#body !== undefined && this.#isOver?.(piece) === true ? [piece, ...this.#judged()] : [piece]
    }
  }

  #end(): readonly HttpItem[] | undefined {
    this.ended = true
    const tail = this.#body === undefined ? [] : this.#judged()
    return tail.length === 0 ? undefined : tail
  }

  /** Many readers leave at the last event instead of at the end of the bytes: what there is of the answer is told there. */
  #judged(): readonly HttpItem[] {
    const verdict = this.#options.judge(this.#contentType, bytesOf(this.#body?.join('') ?? ''))
    this.#isOver = undefined
    if (verdict === undefined) return []
    this.#body = undefined
    return [{ kind: 'tail', ...verdict }]
  }

  async return(): Promise<IteratorResult<HttpItem, undefined>> {
    this.ended = true
    // Of a body that broke off it rejects with the error that has been told already.
    await this.#reader?.cancel().catch(() => {})
    return { done: true, value: undefined }
  }
}

/** Failures on their way through the cache, which knows ours; the caller gets what its own `fetch` threw. */
export interface Failures {
  asTaken(error: unknown, phase: 'headers' | 'body'): unknown
  asGiven(error: unknown, phase: 'headers' | 'body'): unknown
}

export function createFailures(): Failures {
  const given = new WeakMap<object, unknown>()
  return {
    asTaken(error, phase) {
      // Without a cause it is the caller's mistake.
      if (!(error instanceof TypeError) || error.cause === undefined) return error
      const { cause } = error
      const known = isMillraceError(cause)
        ? cause
        : new MillraceError('network', 'fetch failed', { details: { phase }, cause: error })
      given.set(known, error)
      return known
    },
    asGiven(error, phase) {
      const original = typeof error === 'object' && error !== null ? given.get(error) : undefined
      if (original !== undefined) return original
      // As the Fetch standard has it; behind the head ours come as they are.
      return phase === 'headers' && isMillraceError(error) ? new TypeError('fetch failed', { cause: error }) : error
    }
  }
}
