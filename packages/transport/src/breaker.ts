import {
  checkOptions,
  type ErrorCode,
  type HttpResponse,
  isMillraceError,
  type Layer,
  MillraceError,
  type Send
} from '@millrace/core'
import { type BreakerState, Circuit, type Verdict } from './circuit.ts'
import { isPassing, statusOf } from './status.ts'

export type { BreakerState } from './circuit.ts'

export interface BreakerOptions {
  /** Opens when this share of the requests that ended in the window has failed; above 0, at most 1. @default 0.5 */
  readonly failureRate?: number | undefined
  /** And at least so many have ended. @default 20 */
  readonly minimumRequests?: number | undefined
  /** How far back it looks, to a tenth of it. @default 10000 */
  readonly windowMs?: number | undefined
  /** How long it lets nothing through before it tries one request. @default 1000 */
  readonly openMs?: number | undefined
  /** A clock in milliseconds that never goes back. @default performance.now */
  readonly now?: (() => number) | undefined
}

export interface CircuitStats {
  readonly state: BreakerState
  /** How often it has opened. */
  readonly opened: number
  /** Requests refused with `circuit-open`. */
  readonly rejected: number
}

export interface Breaker {
  readonly layer: Layer<Send>
  /** By any address of the origin. An origin never asked is closed; an open one is half-open once `openMs` is over. */
  state(origin: string): BreakerState
  /** By scheme, host and port; at most 1000 origins. */
  stats(): Readonly<Record<string, CircuitStats>>
}

/** Of more origins, those not asked for the longest time are forgotten, the closed ones first. */
const maxOrigins = 1000

/**
 * Spares an origin that fails, and its callers the wait: once too many of its requests have failed, every further one is
 * rejected at once. After `openMs` one request is let through; its success closes the circuit, its failure opens it for
 * `openMs` more. Where that one hangs, another follows each `openMs`, and the first to end decides.
 *
 * Failures: `network`, `protocol`, every clock but `queue` and `total`, and the statuses 408, 429 and 5xx (`refusal` goes
 * before `status`). Other 4xx are the caller's mistake: not counted, but proof enough that the origin is back. An abort, a
 * full queue or a request that was never sent says nothing. What began before the circuit opened is not counted either.
 *
 * @throws {TypeError} for options that make no sense
 * @throws {MillraceError} from `layer`: `circuit-open`, with what is left of the wait
 *
 * @example
 * const breaker = createBreaker({ failureRate: 0.3 })
 * const send = pipe(transport.send, breaker.layer)
 * console.log(breaker.state('https://api.openai.com'))
 */
export function createBreaker(options: BreakerOptions = {}): Breaker {
  checkOptions<BreakerOptions>('createBreaker', options, names)
  const { failureRate = 0.5, minimumRequests = 20, windowMs = 10_000, openMs = 1000, now = defaultNow } = options
  if (!(typeof failureRate === 'number' && failureRate > 0 && failureRate <= 1)) {
    throw new TypeError(`failureRate must be a share above 0 and at most 1, such as 0.5, not ${failureRate}`)
  }
  if (!Number.isSafeInteger(minimumRequests) || minimumRequests < 1) {
    throw new TypeError(`minimumRequests must be a whole number of at least 1, not ${minimumRequests}`)
  }
  if (!isSpan(windowMs)) throw new TypeError(`windowMs must be a number of milliseconds above 0, not ${windowMs}`)
  if (!isSpan(openMs)) throw new TypeError(`openMs must be a number of milliseconds above 0, not ${openMs}`)
  if (typeof now !== 'function') throw new TypeError('now must be a function that gives milliseconds, such as performance.now')

  const limits = { failureRate, minimumRequests, windowMs, openMs }
  const places = new Map<string, Place>()
  let lastUrl: string | undefined
  let last: Place | undefined

  /** Nearly all requests go to one URL: the last one is not looked at again. */
  function placeOf(url: string): Place | undefined {
    if (url === lastUrl) return last
    const origin = originOf(url)
    if (origin === undefined) return undefined
    const place = places.get(origin) ?? { origin, circuit: new Circuit(limits), rejected: 0 }
    // Deleted and set again, the map keeps them in the order of their last use.
    places.delete(origin)
    if (places.size >= maxOrigins) places.delete(oldest(places))
    places.set(origin, place)
    lastUrl = url
    last = place
    return place
  }

  const layer: Layer<Send> = (next) => async (request) => {
    const place = placeOf(request.url)
    if (place === undefined) return next(request) // no address at all: who sends it says so
    const { circuit } = place
    const ticket = circuit.enter(now)
    if (ticket === undefined) throw refused(place, circuit.waitMs(now()))
    let verdict: Verdict = 'neutral'
    try {
      const response = await next(request)
      verdict = ofResponse(response)
      return response
    } catch (error) {
      // After an abort the error is only its echo, whichever way it was told.
      if (request.signal?.aborted !== true) verdict = ofError(error)
      throw error
    } finally {
      circuit.leave(ticket, verdict, now)
    }
  }

  return {
    layer,
    state: (origin) => places.get(originOf(origin) ?? '')?.circuit.stateAt(now()) ?? 'closed',
    stats: () =>
      Object.fromEntries(
        Array.from(places.values(), ({ origin, circuit, rejected }) => [
          origin,
          { state: circuit.stateAt(now()), opened: circuit.opened, rejected }
        ])
      )
  }
}

interface Place {
  readonly origin: string
  readonly circuit: Circuit
  rejected: number
}

function originOf(url: string): string | undefined {
  return URL.parse(url)?.origin
}

function oldest(places: ReadonlyMap<string, Place>): string {
  for (const { origin, circuit } of places.values()) if (circuit.state === 'closed') return origin
  const [origin = ''] = places.keys()
  return origin
}

function refused(place: Place, waitMs: number): MillraceError<'circuit-open'> {
  const { origin } = place
  place.rejected++
  const retryAfterMs = Math.ceil(waitMs)
  return new MillraceError('circuit-open', `${origin} failed too often lately; it is tried again in ${retryAfterMs} ms`, {
    details: { origin, retryAfterMs }
  })
}

function ofResponse(response: HttpResponse): Verdict {
  const told = statusOf(response)
  if (isPassing(told)) return 'failure'
  return told >= 400 ? 'mistake' : 'success'
}

/** An error that is not ours comes from a `Send` that is not ours, and most likely from its socket. */
function ofError(error: unknown): Verdict {
  if (!isMillraceError(error)) return 'failure'
  if (isMillraceError(error, 'timeout')) {
    // These two run over all attempts and their waits: what they say is how long the caller would wait.
    return error.details.clock === 'total' || error.details.clock === 'queue' ? 'neutral' : 'failure'
  }
  // A bound of the caller's own, met by an origin that answers.
  if (isMillraceError(error, 'protocol') && error.details.reason === 'too-large') return 'mistake'
  return verdicts[error.code]
}

const verdicts: Readonly<Record<ErrorCode, Verdict>> = {
  network: 'failure',
  timeout: 'failure',
  protocol: 'failure',
  'rate-limited': 'failure',
  overloaded: 'failure',
  unavailable: 'failure',
  'quota-exceeded': 'mistake',
  unauthorized: 'mistake',
  'context-overflow': 'mistake',
  'content-filtered': 'mistake',
  'invalid-request': 'neutral',
  'queue-full': 'neutral',
  'circuit-open': 'neutral',
  closed: 'neutral'
}

const names: Readonly<Record<keyof BreakerOptions, 1>> = { failureRate: 1, minimumRequests: 1, windowMs: 1, openMs: 1, now: 1 }

function isSpan(ms: number): boolean {
  return typeof ms === 'number' && ms > 0 && ms < Number.POSITIVE_INFINITY
}

function defaultNow(): number {
  return performance.now()
}
