import {
  clampTimer,
  type HttpBody,
  type HttpRequest,
  type HttpResponse,
  isMillraceError,
  MillraceError,
  onAbort,
  timeoutError,
  type WirePhase
} from '@millrace/core'
import type { Dispatcher } from 'undici'
import type { Connection } from './connection.ts'
import type { Origin } from './origin.ts'
import { iterate, Pieces, readText, tooLarge } from './pieces.ts'
import { wireError } from './wire-error.ts'

/** What is received and not yet read is held up to here; beyond, the socket is paused and the server waits. */
const highWaterBytes = 256 * 1024

/** As much of an answer is held back until it is whole, so that one that breaks off can be asked for again. */
export const maxHeldBytes: number = 64 * 1024

/** A round trip, however far, and some blocking of the event loop. */
const maxRaceMs = 1000

/** Limits of an exchange whose request sets none. */
export interface ExchangeLimits {
  readonly connectMs: number
  readonly headersMs: number
  readonly maxResponseBytes: number
  /** Of a response that says no (4xx, 5xx): the rest is given up, and what came is the body. */
  readonly maxErrorBytes: number
}

/**
 * One request and its response over undici's `dispatch`: no stream objects, one promise for the head, and one for each
 * batch a reader has to wait for. A small JSON answer comes with its head, for nobody can use half of it. A class, for it is
 * the hot path: one object an exchange, shared methods.
 */
export class Exchange implements Dispatcher.DispatchHandler, HttpBody {
  readonly head: Promise<HttpResponse>
  readonly #request: HttpRequest
  readonly #limits: ExchangeLimits
  readonly #origin: Origin
  readonly #connection: Connection
  #maxBytes: number
  #resolveHead!: (response: HttpResponse) => void
  #rejectHead!: (error: unknown) => void
  #controller: Dispatcher.DispatchController | undefined
  #offAbort: () => void = nothing
  #clock: NodeJS.Timeout | undefined
  #phase: WirePhase = 'connect'
  /** A response that is held back until it is whole. */
  #response: HttpResponse | undefined
  readonly #batch = new Pieces()
  #received = 0
  #reader: PromiseWithResolvers<void> | undefined
  #ended = false
  #failure: { readonly error: unknown } | undefined
  #isRefusal = false
  #reused = false
  #startedAt = 0
  #bytesBefore = 0

  constructor(request: HttpRequest, origin: Origin, connection: Connection, limits: ExchangeLimits) {
    this.#request = request
    this.#origin = origin
    this.#connection = connection
    this.#limits = limits
    this.#maxBytes = limits.maxResponseBytes
    this.head = new Promise((resolve, reject) => {
      this.#resolveHead = resolve
      this.#rejectHead = reject
    })
  }

  /** Sends the request; what goes wrong comes out of `head`. */
  start(path: string, trace: Readonly<Record<string, string>> | undefined): void {
    const { method, headers, body = null, signal } = this.#request
    const { forward, name } = this.#origin
    this.#offAbort = onAbort(signal, (reason) => this.fail(reason))
    const options: Dispatcher.DispatchOptions = {
      path: forward === undefined ? path : name + path,
      method,
      headers: trace === undefined && forward === undefined ? headers : { ...headers, ...trace, ...forward?.headers },
      body: body as Uint8Array
    }
    try {
      this.#connection.dispatch(options, this)
    } catch (error) {
      this.fail(wireError(error, 'send'))
    }
  }

  /** A connection is being opened for it: on an idle socket the request goes out at once, and no timer is needed. */
  startConnectClock(): void {
    if (this.#phase !== 'connect' || this.#failure !== undefined) return
    this.#setClock('connect', this.#request.timeouts?.connectMs ?? this.#limits.connectMs)
  }

  /**
   * Whether the same request may be sent again at once and for free: none of it was sent, or it went over a socket that the
   * server closed before it (RFC 9112, section 9.3.1). Not when a clock ended it, for then time is what lacks.
   */
  get wasNotSeen(): boolean {
    const error = this.#failure?.error
    if (!isMillraceError(error, 'network') || !error.retryable) return false
    if (this.#phase === 'connect' || error.details.errno === 'REFUSED_STREAM') return true // RFC 9113, section 8.7
    const { socket, multiplexed } = this.#connection
    // Of a shared session nothing is known but what the server says of each stream.
    if (multiplexed) return false
    // A reset that is due to a socket the server had closed comes within a round trip. What comes later cuts work short.
    if (performance.now() - this.#startedAt > maxRaceMs) return false
    return this.#reused && this.#phase !== 'body' && (socket === undefined || socket.bytesRead === this.#bytesBefore)
  }

  /** All of the response has arrived. */
  get complete(): boolean {
    return this.#ended
  }

  // undici's side

  onRequestStart(controller: Dispatcher.DispatchController): void {
    if (this.#failure !== undefined) {
      controller.abort(asError(this.#failure.error)) // nothing of it has been sent
      return
    }
    this.#controller = controller
    this.#phase = 'send'
    const connection = this.#connection
    this.#origin.requests++
    if (connection.served++ > 0) {
      this.#origin.reused++
      this.#reused = true
      this.#startedAt = performance.now()
    }
    this.#bytesBefore = connection.socket?.bytesRead ?? 0
    clearTimeout(this.#clock)
  }

  onRequestSent(): void {
    if (this.#phase !== 'send') return
    this.#phase = 'headers'
    this.#setClock('headers', this.#request.timeouts?.headersMs ?? this.#limits.headersMs)
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    raw: Record<string, string | string[] | undefined>
  ): void {
    if (status < 200 || this.#failure !== undefined) return
    clearTimeout(this.#clock)
    this.#phase = 'body'
    const headers = flat(raw)
    const response = { status, headers, body: this, attempts: this.#request.attempt ?? 1 }
    if (status >= 400) {
      this.#isRefusal = true
      this.#maxBytes = this.#limits.maxErrorBytes
    } else if (isEventStream(headers)) this.#maxBytes = Number.POSITIVE_INFINITY
    else if (status < 300 && isJson(headers)) {
      this.#response = response
      return
    }
    this.#resolveHead(response)
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Uint8Array): void {
    // Over HTTP/2 a stream goes on for the rest of the turn in which it was given up.
    if (this.#ended || this.#failure !== undefined) return
    this.#received += chunk.byteLength
    const excess = this.#received - this.#maxBytes
    if (excess > 0) {
      if (this.#isRefusal) this.#endHere(chunk.subarray(0, chunk.byteLength - excess))
      else this.fail(tooLarge(this.#maxBytes))
      return
    }
    this.#batch.push(chunk)
    if (this.#batch.bytes > maxHeldBytes) this.#letGo()
    if (this.#batch.bytes > highWaterBytes) controller.pause()
    // The reader runs in a microtask, after undici has handed over all pieces of this socket read.
    this.#wake()
  }

  onResponseEnd(): void {
    if (this.#ended || this.#failure !== undefined) return
    // A body that ends with its connection: undici takes a reset for that end too.
    const cut = this.#connection.socket?.errored
    if (cut instanceof Error) {
      this.#failBehind(wireError(cut, 'body'))
      return
    }
    this.#ended = true
    this.#release()
    const { socket, multiplexed } = this.#connection
    // An early answer: megabytes of this request may still stand before the next one (RFC 9112, section 9.3).
    if (!multiplexed && socket !== undefined && socket.writableLength > 0) this.#connection.drop(this, undefined)
    else this.#connection.release(this)
    this.#letGo()
    this.#wake()
  }

  /** Whoever wanted to know why has read enough. */
  #endHere(last: Uint8Array): void {
    if (last.byteLength > 0) this.#batch.push(last)
    this.#ended = true
    this.#release()
    const reason = new Error('the rest of a refusal is not read')
    this.#abort(reason)
    this.#connection.drop(this, reason)
    this.#wake()
  }

  onResponseError(controller: Dispatcher.DispatchController | null, error: Error): void {
    // Without a controller undici has refused the request itself, and its socket is as good as before.
    this.#failBehind(wireError(error, this.#phase), controller === null ? 'kept' : 'lost')
  }

  /** What has arrived is still read, then the error: the text so far belongs to the caller. */
  #failBehind(error: unknown, socket?: 'kept' | 'lost'): void {
    if (this.#ended || this.#failure !== undefined) return
    const arrived = this.#batch.take()
    this.fail(error, socket)
    this.#batch.pushAll(arrived)
  }

  #letGo(): void {
    if (this.#response === undefined) return
    this.#resolveHead(this.#response)
    this.#response = undefined
  }

  // the reader's side

  [Symbol.asyncIterator](): AsyncIterator<readonly Uint8Array[], undefined> {
    return iterate(
      () => this.#next(),
      () => this.cancel()
    )
  }

  text(maxBytes: number = this.#limits.maxResponseBytes): Promise<string> {
    // What has arrived whole needs no further turn.
    if (!this.#ended || this.#batch.bytes > maxBytes)
      return readText(
        () => this.#next(),
        maxBytes,
        (error) => this.fail(error)
      )
    const text = this.#batch.text()
    this.#batch.take()
    return Promise.resolve(text)
  }

  cancel(reason?: unknown): void {
    if (!this.#ended) this.fail(reason ?? new MillraceError('closed', 'the body was cancelled by its reader', { details: {} }))
  }

  async #next(): Promise<IteratorResult<readonly Uint8Array[], undefined>> {
    for (;;) {
      if (this.#batch.length > 0) {
        const value = this.#batch.take()
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
  fail(error: unknown, socket: 'kept' | 'lost' = 'lost'): void {
    if (this.#ended || this.#failure !== undefined) return
    this.#failure = { error }
    this.#batch.take()
    this.#response = undefined
    this.#release()
    this.#rejectHead(error)
    this.#abort(error)
    if (socket === 'kept') this.#connection.release(this)
    else this.#connection.drop(this, error)
    this.#wake()
  }

  /** In a turn of its own over HTTP/2: resetting a stream while the session is at work was seen to block Node for ever. */
  #abort(error: unknown): void {
    const controller = this.#controller
    if (controller === undefined) return
    if (this.#connection.multiplexed) setImmediate(() => controller.abort(asError(error)))
    else controller.abort(asError(error))
  }

  #release(): void {
    clearTimeout(this.#clock)
    this.#offAbort()
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

const nothing = (): void => {}

function flat(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  const result: Record<string, string> = {}
  for (const name in headers) {
    const value = headers[name]
    if (value !== undefined) result[name] = typeof value === 'string' ? value : value.join(', ')
  }
  return result
}

type Headers = Readonly<Record<string, string>>

export function isEventStream({ 'content-type': type = '' }: Headers): boolean {
  return /^\s*text\/event-stream\b/i.test(type)
}

export function isJson({ 'content-type': type = '' }: Headers): boolean {
  return /^\s*application\/(?:[\w.-]+\+)?json\b/i.test(type)
}

/** undici wants an Error to abort with; a caller's reason may be anything. */
function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error('aborted', { cause: reason })
}
