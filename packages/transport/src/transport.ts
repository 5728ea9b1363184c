import { checkOptions, type Layer, pipe, type Send } from '@millrace/core'
import { closedError, createAttempts, type WarmOptions } from './attempts.ts'
import { type BreakerState, type CircuitStats, createBreaker } from './breaker.ts'
import { createFetch, type Fetch } from './fetch.ts'
import { createHedge } from './hedge.ts'
import { checkHttpRequest } from './http-request.ts'
import { observe } from './observe.ts'
import type { OriginStats } from './origin.ts'
import { createRetry } from './retry.ts'
import { withTotal } from './total.ts'
import { checkTransportOptions, type TransportOptions } from './transport-options.ts'

export interface CloseOptions {
  /** How long running requests may go on; `Infinity` waits for all of them. @default 10000 */
  readonly graceMs?: number | undefined
}

export interface BreakerStats {
  /** `closed` too where there is no breaker. */
  readonly breaker: BreakerState
  /** How often it has opened. */
  readonly breakerOpened: number
  /** Requests it refused with `circuit-open`. */
  readonly breakerRejected: number
}

export interface TransportStats {
  /** By scheme, host and port. */
  readonly origins: Readonly<Record<string, OriginStats & BreakerStats>>
  /** Requests sent again behind a failure or a refusal. */
  readonly retries: number
  /** Failures that were not tried again because too many had been: see `budgetRatio`. */
  readonly retriesDenied: number
  /** Requests repeated at once because the server had not seen them: a socket it had closed, a connection that failed. */
  readonly resent: number
  /** Second requests sent beside slow ones, and how many of them were faster. */
  readonly hedges: number
  readonly hedgesWon: number
  /** How often `traceHeaders` threw; the attempt went on without a trace. */
  readonly traceFailures: number
}

export interface Transport extends AsyncDisposable {
  /**
   * The lean face: the head's promise, then the body in batches. A stream's head comes with its first content, a small JSON
   * answer's with its end, so that what breaks before can be tried again.
   *
   * @throws {MillraceError} `network`, `timeout`, `protocol`, `circuit-open`, `queue-full`, `invalid-request`, `closed`;
   * `signal.reason`
   */
  readonly send: Send
  /** What each attempt must pass before it is sent: the option `limits`. */
  readonly limits: Layer<Send> | undefined
  /** The web face, for any SDK that takes a `fetch`. */
  readonly fetch: Fetch
  /**
   * Opens sockets to an origin (any URL of it) ahead of the first call, until there are `connections` of them (default 1).
   *
   * @throws {MillraceError} `network` or `timeout` when a socket cannot be opened
   */
  warm(url: string, options?: WarmOptions): Promise<void>
  stats(): TransportStats
  /**
   * Refuses new requests with `closed`, lets running ones finish for `graceMs`, then aborts them. Safe to call twice.
   * `graceMs` defaults to 10000.
   */
  close(options?: CloseOptions): Promise<void>
}

/**
 * Owns a pool of sockets for calls to language models.
 *
 * @throws {TypeError} for options that make no sense
 *
 * @example
 * const transport = createTransport()
 * const client = new OpenAI({ fetch: transport.fetch, maxRetries: 0 })
 */
export function createTransport(options: TransportOptions = {}): Transport {
  const limits = checkTransportOptions(options)
  const closing = new AbortController()
  const retry = options.retry === false ? undefined : createRetry(options.retry, closing.signal)
  const breaker = options.breaker === false ? undefined : createBreaker(options.breaker)
  const hedge = options.hedge === undefined || options.hedge === false ? undefined : createHedge(options.hedge)
  const { attempt, originOf, warm, stats, end } = createAttempts(options, limits, closing.signal)
  const layers = [breaker?.layer, options.limits, hedge?.layer, retry?.layer, withTotal(limits.totalMs)].flatMap(
    (layer) => layer ?? []
  )
  const observed = observe(() => transport, originOf)
  const layered = pipe(attempt, observed, ...layers)
  const send: Send = (request) => {
    try {
      checkHttpRequest(request)
    } catch (error) {
      return Promise.reject(error)
    }
    return layered(request)
  }
  let closed: Promise<void> | undefined

  const transport: Transport = {
    send,
    limits: options.limits,
    fetch: createFetch(send),
    warm,
    stats() {
      const { origins, resent, traceFailures } = stats()
      const { retries = 0, denied = 0 } = retry?.stats() ?? {}
      const { hedges = 0, won = 0 } = hedge?.stats() ?? {}
      const circuits = breaker?.stats() ?? {}
      const all = Object.entries(origins).map(([name, counts]) => {
        const { state, opened, rejected } = circuits[name] ?? closedCircuit
        return [name, { ...counts, breaker: state, breakerOpened: opened, breakerRejected: rejected }] as const
      })
      return {
        origins: Object.fromEntries(all),
        retries,
        retriesDenied: denied,
        resent,
        hedges,
        hedgesWon: won,
        traceFailures
      }
    },
    close(asked = {}) {
      const graceMs = checkGrace(asked)
      closing.abort(closedError())
      closed ??= end(graceMs)
      return closed
    },
    [Symbol.asyncDispose]: () => transport.close()
  }
  return transport
}

const closedCircuit: CircuitStats = { state: 'closed', opened: 0, rejected: 0 }

/** @throws {TypeError} for a grace that is none */
function checkGrace(options: CloseOptions): number {
  checkOptions<CloseOptions>('close', options, { graceMs: 1 })
  const { graceMs = 10_000 } = options
  if (typeof graceMs === 'number' && graceMs >= 0) return graceMs
  throw new TypeError('graceMs must be a number of milliseconds from 0 up, or Infinity')
}
