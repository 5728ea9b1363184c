import { type HttpBody, type HttpRequest, type HttpResponse, type Layer, onAbort, type Send } from '@millrace/core'
import { type CallPermit, permitOf } from './call-permit.ts'
import { createEstimator } from './estimate.ts'
import type { LimiterParts } from './limiter.ts'
import { bodySeen } from './request-body.ts'
import { verdictOn } from './verdict.ts'
import { hear, WiredCall } from './wire-call.ts'
import { costOf } from './wire-cost.ts'

/**
 * The limiter's place on the wire, one attempt at a time. The first request of a call whose permit came from `withLimits` passes,
 * each further one (a retry, a hedge) waits for one more request of the limits. A request without a permit waits for a whole one
 * and holds its place until the body has been read, has failed or was given up; one that is forgotten unread is given back by the
 * garbage collector. What each response tells of the provider's limits is learned.
 */
export function createLimiterSend(parts: LimiterParts): Layer<Send> {
  const estimator = createEstimator()
  const abandoned = new FinalizationRegistry<WiredCall>((call) => call.left())

  async function further(next: Send, request: HttpRequest, permit: CallPermit): Promise<HttpResponse> {
    try {
      const { waitedMs } = await parts.acquireRequest(permit.subject, request)
      if (waitedMs > 0) request.tally?.waited(waitedMs)
    } catch (error) {
      permit.held.ownRefusal = error
      throw error
    }
    return attempt(next, request, permit)
  }

  /** It may be billed until it is known to have been turned away, or not sent. */
  async function attempt(next: Send, request: HttpRequest, { held, subject }: CallPermit): Promise<HttpResponse> {
    held.answered = false
    held.maybeBilled++
    try {
      const response = await next(request)
      const status = response.refusal ?? response.status
      if (status >= 400) held.maybeBilled--
      hear(parts, held, subject, { status, headers: response.headers })
      return response
    } catch (error) {
      if (verdictOn(error, alone).tokens === 0) held.maybeBilled--
      throw error
    }
  }

  async function unpermitted(next: Send, request: HttpRequest): Promise<HttpResponse> {
    const reading = bodySeen(request.body, () => new Headers(request.headers))
    const seen = reading instanceof Promise ? await reading : reading
    const { call, cost } = costOf(parts, estimator, request.url, seen, undefined)
    const held = await parts.acquire(cost, { signal: request.signal, deadline: request.deadline })
    if (held.waitedMs > 0) request.tally?.waited(held.waitedMs)
    const wired = new WiredCall(parts, estimator, held, call)
    try {
      const response = await next(request)
      wired.hear({ status: response.refusal ?? response.status, headers: response.headers })
      wired.off = onAbort(request.signal, () => wired.left())
      const body = new WatchedBody(response.body, wired)
      abandoned.register(body, wired)
      return { ...response, body }
    } catch (error) {
      if (request.signal?.aborted === true) wired.left()
      else wired.failed(error)
      throw error
    }
  }

  return (next) => (request) => {
    const permit = permitOf(request.permit, parts)
    if (permit === undefined) return unpermitted(next, request)
    return permit.sent++ === 0 ? attempt(next, request, permit) : further(next, request, permit)
  }
}

/** Of one attempt, whatever others there were. */
const alone = { answered: false, maybeBilled: 0, ownRefusal: undefined }

/** The same body; the call ends with it. */
class WatchedBody implements HttpBody {
  readonly #body: HttpBody
  readonly #call: WiredCall

  constructor(body: HttpBody, call: WiredCall) {
    this.#body = body
    this.#call = call
  }

  get complete(): boolean {
    return this.#body.complete === true
  }

  [Symbol.asyncIterator](): AsyncIterator<readonly Uint8Array[], undefined> {
    return new WatchedPieces(this, this.#body[Symbol.asyncIterator](), this.#call)
  }

  async text(maxBytes?: number): Promise<string> {
    try {
      const text = await this.#body.text(maxBytes)
      this.#call.ended(text)
      return text
    } catch (error) {
      this.#call.failed(error)
      throw error
    }
  }

  cancel(reason?: unknown): void {
    this.#call.left()
    this.#body.cancel(reason)
  }
}

/** No generator: one that is left before its first read ends nothing. */
class WatchedPieces implements AsyncIterator<readonly Uint8Array[], undefined> {
  /** Held, for who keeps only the iterator has not forgotten the answer. */
  readonly #body: WatchedBody
  readonly #source: AsyncIterator<readonly Uint8Array[]>
  readonly #call: WiredCall
  #hasBegun = false

  constructor(body: WatchedBody, source: AsyncIterator<readonly Uint8Array[]>, call: WiredCall) {
    this.#body = body
    this.#source = source
    this.#call = call
  }

  async next(): Promise<IteratorResult<readonly Uint8Array[], undefined>> {
    this.#hasBegun = true
    try {
      const { done, value } = await this.#source.next()
      if (done === true) {
        this.#call.ended()
        return { done, value: undefined }
      }
      for (const piece of value) this.#call.tail.push(piece)
      return { done: false, value }
    } catch (error) {
      this.#call.failed(error)
      throw error
    }
  }

  async return(): Promise<IteratorResult<readonly Uint8Array[], undefined>> {
    this.#call.left()
    // The body's own iterator, where it has not begun, may close nothing.
    if (!this.#hasBegun) this.#body.cancel()
    await this.#source.return?.()
    return { done: true, value: undefined }
  }
}
