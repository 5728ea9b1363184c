import { randomBytes } from 'node:crypto'
import {
  annotate,
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
import { createBudget, type RetryStats } from './budget.ts'
import { isExhausted, peek, refusalJson } from './refusal.ts'
import { maxHintMs, retryAfterMs } from './retry-after.ts'
import { isPassing, statusOf } from './status.ts'

export interface RetryOptions {
  /** How often a call is tried in all; the free try on a fresh socket and a hedge are not counted. @default 3 */
  readonly maxAttempts?: number | undefined
  /** The longest wait before the second attempt; it doubles with each one. The wait is drawn from 0 to that. @default 500 */
  readonly baseMs?: number | undefined
  /** @default 8000 */
  readonly maxMs?: number | undefined
  /** Retries that each call adds to what all calls share: a provider that is down sees so many more requests. @default 0.1 */
  readonly budgetRatio?: number | undefined
  /** Shared retries to begin with, and the most that is saved up. `Infinity` lifts the budget. @default 10 */
  readonly budgetReserve?: number | undefined
  /** Numbers from 0 to 1. @default Math.random */
  readonly random?: (() => number) | undefined
}

export interface Retry {
  readonly layer: Layer<Send>
  stats(): RetryStats
}

/** What the body of a refusal may take; it counts as part of the wait. A server that stalls there loses its hint in it. */
const maxPeekMs = 1000

/**
 * Tries again what failed before its first content: a broken connection or response, the connect clock, 408, 409, 429, 5xx,
 * also as the error event that begins a stream. Full jitter, so that callers who failed together do not return together; a
 * hint of the server is waited at least. All calls share one budget of retries. When it is empty, when the wait would
 * outlast `request.deadline`, or the hint is beyond 60 s, the failure is handed on at once, as it is.
 *
 * Not retried: a body that can be read only once, `x-should-retry: false`, an exhausted quota, the other clocks (the
 * provider may be at work on the request: a second one would be paid twice), a name or a certificate that will be as wrong
 * the next time.
 *
 * A POST without an `idempotency-key` is given one, the same for all its attempts. `closing`: when it aborts, waits end with
 * its reason.
 *
 * @throws {TypeError} for options that make no sense
 *
 * @example
 * const send = pipe(createTransport({ retry: false }).send, retry({ maxAttempts: 5 }))
 */
export function retry(options: RetryOptions = {}, closing?: AbortSignal): Layer<Send> {
  return createRetry(options, closing).layer
}

/** The layer, and what it counts. */
export function createRetry(options: RetryOptions = {}, closing?: AbortSignal): Retry {
  checkOptions<RetryOptions>('retry', options, names)
  const { maxAttempts = 3, baseMs = 500, maxMs = 8000, budgetRatio = 0.1, budgetReserve = 10, random = Math.random } = options
  if (!Number.isSafeInteger(maxAttempts) || maxAttempts < 1) {
    throw new TypeError('maxAttempts must be a whole number of at least 1')
  }
  if (!isAtLeast(baseMs, 0) || !isAtLeast(maxMs, baseMs)) {
    throw new TypeError('baseMs must be a number of milliseconds of at least 0, and maxMs at least baseMs')
  }
  if (!isAtLeast(budgetRatio, 0)) throw new TypeError('budgetRatio must be a number of at least 0, such as 0.1')
  if (!isAtLeast(budgetReserve, 1)) {
    throw new TypeError('budgetReserve must be at least 1, or Infinity for no budget; maxAttempts: 1 turns retries off')
  }
  if (typeof random !== 'function') throw new TypeError('random must be a function that gives a number from 0 to 1')

  const budget = createBudget({ ratio: budgetRatio, reserve: budgetReserve })
  const series = randomBytes(9).toString('base64url')
  let calls = 0

  function keyed(request: HttpRequest): HttpRequest {
    if (request.method !== 'POST' || request.headers['idempotency-key'] !== undefined) return request
    return { ...request, headers: { ...request.headers, 'idempotency-key': `${series}-${(++calls).toString(36)}` } }
  }

  /** A hook that throws or gives no number from 0 to 1 costs the jitter, not the call. */
  function draw(): number {
    try {
      const drawn: unknown = random()
      return isAtLeast(drawn, 0) && drawn <= 1 ? drawn : 1
    } catch {
      return 1
    }
  }

  const drawMs = (tries: number, hintMs?: number): number => backOffMs({ tries, baseMs, maxMs, hintMs, random: draw() })

  /** How long to wait behind a refusal, `undefined` where waiting is of no use; and the refusal, still to be read. */
  async function weigh(response: HttpResponse, tries: number, { signal }: HttpRequest, limitMs: number): Promise<Weighed> {
    const startedAt = performance.now()
    const longestMs = Math.min(maxHintMs, limitMs)
    if ((retryAfterMs(response) ?? 0) > longestMs) return { outcome: { response } }
    const { text, body } = await peek(response.body, Math.min(maxPeekMs, longestMs), signal)
    const outcome = { response: { ...response, body } }
    const refusal = refusalJson(text)
    const hintMs = retryAfterMs(response, refusal)
    if (isExhausted(refusal) || (hintMs ?? 0) > longestMs) return { outcome }
    return { outcome, waitMs: Math.max(0, drawMs(tries, hintMs) - (performance.now() - startedAt)) }
  }

  /** Waits until the call may be tried again, or gives what it is to end with. */
  async function wait(failure: Outcome, tries: number, request: HttpRequest): Promise<Outcome | undefined> {
    if (closing?.aborted === true || !budget.take()) return failure
    const remainingMs = (): number => request.deadline?.remainingMs() ?? Number.POSITIVE_INFINITY
    let end: Outcome
    try {
      const weighed =
        failure.response === undefined
          ? { outcome: failure, waitMs: drawMs(tries) }
          : await weigh(failure.response, tries, request, remainingMs())
      if (weighed.waitMs !== undefined && weighed.waitMs < remainingMs()) {
        weighed.outcome.response?.body.cancel()
        await pause(weighed.waitMs, request.signal, closing)
        return undefined
      }
      end = weighed.outcome
    } catch (error) {
      end = { error }
    }
    budget.putBack()
    return end
  }

  /** The failure as the caller gets it: with the number of requests, but for a reason that many calls may share. */
  function handOn(outcome: Outcome, made: number, signal: AbortSignal | undefined): HttpResponse {
    const { response, error } = outcome
    if (response !== undefined) return response.attempts >= made ? response : { ...response, attempts: made }
    const isShared = error === closing?.reason || (error === signal?.reason && !isMillraceError(error, 'timeout'))
    throw isShared ? error : annotate(error, { context: { attempt: made } })
  }

  const layer: Layer<Send> = (next) => async (request) => {
    budget.deposit()
    const limit = isRepeatable(request) ? maxAttempts : 1
    const first = isRepeatable(request) ? keyed(request) : request
    let made = 0
    for (let tries = 1; ; tries++) {
      const attempt = tries === 1 ? first : { ...first, attempt: made + 1 }
      let failure: Outcome
      let isFinal = tries >= limit
      try {
        const response = await next(attempt)
        if (!isRetryable(response) && tries === 1) return response
        failure = { response }
        isFinal ||= !isRetryable(response)
      } catch (error) {
        failure = { error }
        isFinal ||= !isTransient(error)
      }
      made = Math.max(attempt.attempt ?? 1, requestsOf(failure))
      const end = isFinal ? failure : await wait(failure, tries, request)
      if (end !== undefined) return handOn(end, made, request.signal)
    }
  }
  return { layer, stats: budget.stats }
}

/** Of the two one is set; the error may be anything, `undefined` too. */
interface Outcome {
  readonly response?: HttpResponse
  readonly error?: unknown
}

interface Weighed {
  readonly outcome: Outcome
  readonly waitMs?: number
}

const names: Readonly<Record<keyof RetryOptions, 1>> = {
  maxAttempts: 1,
  baseMs: 1,
  maxMs: 1,
  budgetRatio: 1,
  budgetReserve: 1,
  random: 1
}

function isAtLeast(value: unknown, least: number): value is number {
  return typeof value === 'number' && value >= least
}

interface BackOff {
  /** So far; at least 1. */
  readonly tries: number
  readonly baseMs: number
  readonly maxMs: number
  readonly hintMs: number | undefined
  /** From 0 to 1. */
  readonly random: number
}

/** Full jitter. At least the hint, and more: all who got the same one must not come back at once. */
export function backOffMs({ tries, baseMs, maxMs, hintMs, random }: BackOff): number {
  const plainMs = Math.min(maxMs, baseMs * 2 ** (tries - 1))
  if (hintMs === undefined) return random * plainMs
  return hintMs + random * (hintMs === 0 ? baseMs : Math.max(hintMs / 5, plainMs))
}

/** Whether the request can be sent twice: an iterable body is gone when it has been read. */
export function isRepeatable({ body }: HttpRequest): boolean {
  return body === undefined || typeof body === 'string' || body instanceof Uint8Array
}

function isRetryable(response: HttpResponse): boolean {
  const status = statusOf(response)
  return (isPassing(status) || status === 409) && response.headers['x-should-retry'] !== 'false'
}

/** What broke before any content. Not `encoding`: a coding we do not know is the same the next time, and paid again. */
function isTransient(error: unknown): boolean {
  if (isMillraceError(error, 'network')) return error.retryable
  if (isMillraceError(error, 'timeout')) return error.details.clock === 'connect'
  // Cut or badly framed; not what will be the same the next time.
  return isMillraceError(error, 'protocol') && error.retryable
}

function requestsOf({ response, error }: Outcome): number {
  return response?.attempts ?? (isMillraceError(error) ? (error.context.attempt ?? 1) : 1)
}

/** The wait ends with the caller's signal, and with the transport's: a new attempt would be refused anyway. */
async function pause(ms: number, signal: AbortSignal | undefined, closing: AbortSignal | undefined): Promise<void> {
  const until = performance.now() + ms
  using linked = linkAbort(signal)
  const off = onAbort(closing, (reason) => linked.abort(reason))
  try {
    // Timers end up to a millisecond early, and a hint is not to be undercut.
    for (let leftMs = ms; leftMs > 0; leftMs = until - performance.now()) await sleep(Math.ceil(leftMs), linked.signal)
    linked.signal.throwIfAborted()
  } finally {
    off()
  }
}
