import {
  checkOptions,
  type HttpRequest,
  type HttpResponse,
  isMillraceError,
  type Layer,
  linkAbort,
  onAbort,
  type Send,
  sleep
} from '@millrace/core'
import { bufferedBody } from './buffered-body.ts'
import { readRefusal } from './refusal.ts'
import { maxHintMs, retryAfterMs } from './retry-after.ts'

export interface RetryOptions {
  /** Requests a call may make in all. @default 3 */
  readonly maxAttempts?: number | undefined
  /** The longest wait before the second attempt; it doubles with each one. The wait is drawn from 0 to that. @default 500 */
  readonly baseMs?: number | undefined
  /** @default 8000 */
  readonly maxMs?: number | undefined
  /** Numbers from 0 to 1. @default Math.random */
  readonly random?: (() => number) | undefined
}

/**
 * Tries again what failed before any answer: no response at all, 408, 409, 429, 5xx. Never once a 2xx head has come, so a
 * stream is never begun twice. Full jitter, so that callers who failed together do not return together; a `Retry-After`
 * is waited at least. The last response is passed on as it is.
 *
 * Not retried: a body that can be read only once, `x-should-retry: false`, an exhausted quota, a hint beyond 60 s, a name
 * or a certificate that will be as wrong the next time.
 *
 * `closing`: when it aborts, waits end with its reason.
 *
 * @throws {TypeError} for options that make no sense
 *
 * @example
 * const send = pipe(transport.send, retry({ maxAttempts: 5 }))
 */
export function retry(options: RetryOptions = {}, closing?: AbortSignal): Layer<Send> {
  checkOptions<RetryOptions>('retry', options, { maxAttempts: 1, baseMs: 1, maxMs: 1, random: 1 })
  const { maxAttempts = 3, baseMs = 500, maxMs = 8000, random = Math.random } = options
  if (!Number.isSafeInteger(maxAttempts) || maxAttempts < 1)
    throw new TypeError('maxAttempts must be a whole number of at least 1')
  if (typeof random !== 'function') throw new TypeError('random must be a function that gives a number from 0 to 1')
  if (!(baseMs >= 0) || !(maxMs >= baseMs)) throw new TypeError('baseMs must be at least 0, and maxMs at least baseMs')

  return (next) => async (request) => {
    const last = isReplayable(request) ? maxAttempts : 1
    for (let attempt = 1; ; attempt++) {
      let waitMs = random() * Math.min(maxMs, baseMs * 2 ** (attempt - 1))
      try {
        const response = await next(attempt === 1 ? request : { ...request, attempt })
        if (attempt >= last || !isRetryable(response)) return response
        const hintMs = retryAfterMs(response.headers)
        if (hintMs !== undefined && hintMs > maxHintMs) return response
        const { exhausted, kept } = await takeIn(response)
        if (exhausted) return kept
        // At least the hint, and more: all who got the same hint must not come back at once.
        if (hintMs !== undefined) waitMs = hintMs + Math.max(waitMs, random() * (hintMs / 5))
      } catch (error) {
        if (attempt >= last || !isMillraceError(error) || !error.retryable || error.code === 'queue-full') throw error
      }
      await pause(waitMs, request.signal, closing)
    }
  }
}

function isReplayable({ body }: HttpRequest): boolean {
  return body === undefined || typeof body === 'string' || body instanceof Uint8Array
}

function isRetryable({ status, headers }: HttpResponse): boolean {
  if (headers['x-should-retry'] === 'false') return false
  return status === 408 || status === 409 || status === 429 || status >= 500
}

/** An exhausted quota is a 429 too, told only in the body. Reading it also leaves the socket usable. */
async function takeIn(response: HttpResponse): Promise<{ exhausted: boolean; kept: HttpResponse }> {
  const text = await readRefusal(response.body)
  return { exhausted: text.includes('insufficient_quota'), kept: { ...response, body: bufferedBody(text) } }
}

/** The wait ends with the caller's signal, and with the transport's: a new attempt would be refused anyway. */
async function pause(ms: number, signal: AbortSignal | undefined, closing: AbortSignal | undefined): Promise<void> {
  using linked = linkAbort(signal)
  const off = onAbort(closing, (reason) => linked.abort(reason))
  try {
    await sleep(ms, linked.signal)
  } finally {
    off()
  }
}
