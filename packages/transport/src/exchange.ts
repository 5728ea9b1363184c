import type { Socket } from 'node:net'
import {
  clampTimer,
  type HttpBody,
  type HttpRequest,
  type HttpResponse,
  MillraceError,
  onAbort,
  timeoutError,
  type WirePhase
} from '@millrace/core'
import type { Dispatcher } from 'undici'
import { type Connecting, nobody } from './pool.ts'
import { wireError } from './wire-error.ts'

/** What is received and not yet read is held up to here; beyond, the socket is paused and the server waits. */
const highWaterBytes = 256 * 1024

/**
 * One request and its response over undici's `dispatch`: no stream objects, one promise for the head, and one for each
 * batch a reader has to wait for. A class, for it is the hot path: one object an exchange, shared methods.
 */
export class Exchange implements Connecting, HttpBody {
  connection: Socket | undefined
  readonly head: Promise<HttpResponse>
  readonly #request: HttpRequest
  #maxBytes: number
  readonly #textBytes: number
  readonly #onStart: () => void
  readonly #onEnd: () => void
  #resolveHead!: (response: HttpResponse) => void
  #rejectHead!: (error: unknown) => void
  #controller: Dispatcher.DispatchController | undefined
  #offAbort: () => void
  #clock: NodeJS.Timeout | undefined
  #phase: WirePhase = 'connect'
  #batch: Uint8Array[] = []
  #held = 0
  #received = 0
  #reader: PromiseWithResolvers<void> | undefined
  #ended = false
  #failure: { readonly error: unknown } | undefined

  /** `onStart` is called when it has a socket; `onEnd` exactly once, when the socket is free or gone. */
  constructor(request: HttpRequest, maxBytes: number, onStart: () => void, onEnd: () => void) {
    this.#request = request
    this.#maxBytes = maxBytes
    this.#textBytes = maxBytes
    this.#onStart = onStart
    this.#onEnd = onEnd
    this.head = new Promise((resolve, reject) => {
      this.#resolveHead = resolve
      this.#rejectHead = reject
    })
    this.#offAbort = () => {}
    this.#offAbort = onAbort(request.signal, (reason) => this.fail(reason))
  }

  /** To be called behind `dispatch`: on an idle socket the request has gone out by then, and no timer is needed. */
  startConnectClock(connectMs: number): void {
    if (this.#phase === 'connect' && this.#failure === undefined) this.#setClock('connect', connectMs)
  }

  // undici's side

  onRequestStart(controller: Dispatcher.DispatchController): void {
    if (this.#failure !== undefined) {
      controller.abort(asError(this.#failure.error))
      return
    }
    this.#controller = controller
    this.#phase = 'send'
    this.#onStart()
    clearTimeout(this.#clock)
  }

  onRequestSent(): void {
    if (this.#phase !== 'send') return
    this.#phase = 'headers'
    this.#setClock('headers', this.#request.timeouts?.headersMs ?? Number.POSITIVE_INFINITY)
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: Record<string, string | string[] | undefined>
  ): void {
    if (status < 200) return
    clearTimeout(this.#clock)
    this.#phase = 'body'
    if (isEventStream(headers['content-type'])) this.#maxBytes = Number.POSITIVE_INFINITY
    this.#resolveHead({ status, headers: flat(headers), body: this, attempts: this.#request.attempt ?? 1 })
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Uint8Array): void {
    this.#received += chunk.byteLength
    if (this.#received > this.#maxBytes) {
      this.fail(tooLarge(this.#maxBytes))
      return
    }
    this.#batch.push(chunk)
    this.#held += chunk.byteLength
    if (this.#held > highWaterBytes) controller.pause()
    // The reader runs in a microtask, after undici has handed over all pieces of this socket read.
    this.#wake()
  }

  onResponseEnd(): void {
    if (this.#failure !== undefined) return
    this.#ended = true
    this.#release()
    this.#wake()
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    // What has arrived is still read, then the error: the text so far belongs to the caller.
    const arrived = this.#batch
    this.fail(wireError(error, this.#phase))
    this.#batch = arrived
  }

  // the reader's side

  [Symbol.asyncIterator](): AsyncIterator<readonly Uint8Array[], undefined> {
    return {
      next: () => this.#next(),
      return: () => {
        this.cancel()
        return Promise.resolve({ done: true, value: undefined })
      }
    }
  }

  async text(maxBytes: number = this.#textBytes): Promise<string> {
    const pieces: Uint8Array[] = []
    let bytes = 0
    for (;;) {
      const { done, value } = await this.#next()
      if (done === true) break
      for (const piece of value) {
        bytes += piece.byteLength
        if (bytes > maxBytes) {
          const error = tooLarge(maxBytes)
          this.fail(error)
          throw error
        }
        pieces.push(piece)
      }
    }
    // In one go: a decoder that takes pieces builds an ICU converter for each body, which costs more than the decoding.
    const [only] = pieces
    return utf8.decode(pieces.length === 1 ? only : Buffer.concat(pieces, bytes))
  }

  cancel(reason?: unknown): void {
    if (!this.#ended) this.fail(reason ?? new MillraceError('closed', 'the body was cancelled by its reader', { details: {} }))
  }

  async #next(): Promise<IteratorResult<readonly Uint8Array[], undefined>> {
    for (;;) {
      if (this.#batch.length > 0) {
        const value = this.#batch
        this.#batch = []
        this.#held = 0
        if (this.#failure === undefined && this.#controller?.paused === true) this.#controller.resume()
        return { done: false, value }
      }
      if (this.#failure !== undefined) throw this.#failure.error
      if (this.#ended) return { done: true, value: undefined }
      this.#reader ??= Promise.withResolvers<void>()
      await this.#reader.promise
    }
  }

  #wake(): void {
    const reader = this.#reader
    this.#reader = undefined
    reader?.resolve()
  }

  /** Ends the exchange with `error`, whatever its phase; the socket is closed, for the rest of the response is unread. */
  fail(error: unknown): void {
    if (this.#ended || this.#failure !== undefined) return
    this.#failure = { error }
    this.#batch = []
    this.#release()
    this.#rejectHead(error)
    this.#controller?.abort(asError(error))
    // undici would see the connection through, and keep its place in the pool taken for as long.
    this.connection?.destroy(nobody())
    this.#wake()
  }

  #release(): void {
    clearTimeout(this.#clock)
    this.#offAbort()
    this.#onEnd()
  }

  #setClock(clock: 'connect' | 'headers', limitMs: number): void {
    clearTimeout(this.#clock)
    if (limitMs === Number.POSITIVE_INFINITY) return
    const startedAt = performance.now()
    const phase = this.#phase
    const arm = (ms: number): void => {
      this.#clock = setTimeout(fire, clampTimer(ms)).unref()
    }
    let waitedAgain = false
    const fire = (): void => {
      const elapsedMs = performance.now() - startedAt
      const lateMs = elapsedMs - limitMs
      // The event loop was blocked: what has arrived meanwhile is given as long as that took to be seen, once.
      if (lateMs > 20 && !waitedAgain) {
        waitedAgain = true
        return arm(Math.min(lateMs, limitMs))
      }
      setImmediate(() => {
        if (this.#phase === phase) this.fail(timeoutError(clock, limitMs, elapsedMs))
      })
    }
    arm(limitMs)
  }
}

/** Without `stream: true` it keeps nothing between calls. */
const utf8 = new TextDecoder()

function flat(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  const result: Record<string, string> = {}
  for (const name in headers) {
    const value = headers[name]
    if (value !== undefined) result[name] = typeof value === 'string' ? value : value.join(', ')
  }
  return result
}

export function isEventStream(contentType: string | string[] | undefined): boolean {
  return typeof contentType === 'string' && /^\s*text\/event-stream\b/i.test(contentType)
}

/** The error of a response beyond its bound, read or only counted. */
export function tooLarge(maxBytes: number): MillraceError<'protocol'> {
  return new MillraceError('protocol', `the response is longer than ${maxBytes} bytes`, { details: { reason: 'too-large' } })
}

/** undici wants an Error to abort with; a caller's reason may be anything. */
function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error('aborted', { cause: reason })
}
