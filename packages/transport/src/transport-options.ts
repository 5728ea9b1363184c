import { checkOptions, type Layer, type Send, type Timeouts } from '@millrace/core'
import type { BreakerOptions } from './breaker.ts'
import { checkCertificates } from './certificates.ts'
import type { ExchangeLimits } from './exchange.ts'
import type { HedgeOptions } from './hedge.ts'
import { checkProxy } from './proxy.ts'
import type { RetryOptions } from './retry.ts'

export interface TransportOptions {
  /** Sockets an origin may have at a time. @default 512 */
  readonly maxConnections?: number | undefined
  /** Requests an origin may have waiting for a socket; the next one fails with `queue-full`; 0 for no queue. @default 10000 */
  readonly maxQueue?: number | undefined
  /** How long an idle socket is kept, unless the server's `keep-alive` hint says less. @default 30000 */
  readonly keepAliveMs?: number | undefined
  /** True: HTTP/2 where the server speaks it too, many calls on one socket; not for production yet, see the README. @default false */
  readonly http2?: boolean | undefined
  /** Certificates to trust beside those Node trusts, as PEM text. */
  readonly ca?: string | readonly string[] | undefined
  /**
   * `http://user:password@host:port` of a proxy; false goes straight whatever the environment says.
   * @default what HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say
   */
  readonly proxy?: string | false | undefined
  /**
   * Limits of a request that sets none, in milliseconds.
   * @default { connectMs: 10000, headersMs: Infinity, firstChunkMs: Infinity, idleMs: 60000, totalMs: 600000 }
   */
  readonly timeouts?: Timeouts | undefined
  /** The longest response, inflated, in bytes. An event stream has no such bound: its reader holds it back. @default 16777216 */
  readonly maxResponseBytes?: number | undefined
  /** The longest body of a response that says no (4xx, 5xx), in bytes; the rest of a longer one is not read. @default 65536 */
  readonly maxErrorBytes?: number | undefined
  /** The longest event of a stream whose silences are timed, in UTF-16 code units. @default 1048576 */
  readonly maxEventChars?: number | undefined
  /** False: every request is tried once. @default { maxAttempts: 3 } */
  readonly retry?: RetryOptions | false | undefined
  /** When to stop asking an origin that fails; false: never. @default { failureRate: 0.5, minimumRequests: 20 } */
  readonly breaker?: BreakerOptions | false | undefined
  /** Whether to send a second request beside a slow one. @default false */
  readonly hedge?: HedgeOptions | false | undefined
  /**
   * What each attempt must pass before it is sent, retries and hedges included: `limiter.send` of `@millrace/limits`. An open
   * circuit refuses behind it.
   * @default none
   */
  readonly limits?: Layer<Send> | undefined
  /** Headers to add to each attempt of a call; telemetry gives its trace here. */
  readonly traceHeaders?: ((callId: string, attempt: number) => Readonly<Record<string, string>>) | undefined
}

/** Every limit of a request that sets none. */
export interface Limits extends ExchangeLimits {
  readonly firstChunkMs: number
  readonly idleMs: number
  readonly totalMs: number
  readonly maxEventChars: number
}

/**
 * The limits, each with its default. What a layer takes is checked by the layer.
 *
 * @throws {TypeError} that says what to write instead
 */
export function checkTransportOptions(options: TransportOptions): Limits {
  checkOptions<TransportOptions>('createTransport', options, names)
  const { maxConnections, maxQueue, keepAliveMs, http2, ca, proxy, limits, traceHeaders } = options
  const { maxResponseBytes = 16_777_216, maxErrorBytes = 65_536, maxEventChars = 1_048_576 } = options
  checkCount('maxConnections', maxConnections)
  if (maxQueue !== 0) checkCount('maxQueue', maxQueue)
  checkAbove0({ keepAliveMs, maxResponseBytes, maxErrorBytes, maxEventChars })
  if (http2 !== undefined && typeof http2 !== 'boolean') throw new TypeError('http2 must be true or false')
  if (limits !== undefined && typeof limits !== 'function') {
    throw new TypeError('limits must be a layer of send, such as limiter.send of @millrace/limits')
  }
  if (traceHeaders !== undefined && typeof traceHeaders !== 'function') {
    throw new TypeError('traceHeaders must be a function from a callId to headers, such as telemetry.traceHeaders')
  }
  if (ca !== undefined) checkCertificates(ca)
  if (proxy !== undefined && proxy !== false) checkProxy(proxy)
  const { timeouts = {} } = options
  checkTimeouts(timeouts)
  const {
    connectMs = 10_000,
    headersMs = Number.POSITIVE_INFINITY,
    firstChunkMs = Number.POSITIVE_INFINITY,
    idleMs = 60_000,
    totalMs = 600_000
  } = timeouts
  return { connectMs, headersMs, firstChunkMs, idleMs, totalMs, maxResponseBytes, maxErrorBytes, maxEventChars }
}

/** @throws {TypeError} for a name that is no timeout, or a value that is none */
export function checkTimeouts(timeouts: Timeouts): void {
  if (typeof timeouts !== 'object' || timeouts === null) {
    throw new TypeError('timeouts must be an object, such as { totalMs: 60_000 }')
  }
  for (const name of Object.keys(timeouts)) {
    if (!Object.hasOwn(timeoutNames, name)) {
      throw new TypeError(`timeouts.${name} is unknown: use ${Object.keys(timeoutNames).join(', ')}`)
    }
    const value = timeouts[name as keyof Timeouts]
    if (value === undefined || (typeof value === 'number' && value > 0)) continue
    throw new TypeError(`timeouts.${name} must be a number of milliseconds above 0, or Infinity to lift the limit`)
  }
}

/** @throws {TypeError} for what is no whole number of at least 1 */
export function checkCount(name: string, value: number | undefined): void {
  if (value === undefined || (Number.isSafeInteger(value) && value >= 1)) return
  throw new TypeError(`${name} must be a whole number of at least 1`)
}

function checkAbove0(options: Readonly<Record<string, number | undefined>>): void {
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined && !(typeof value === 'number' && value > 0)) {
      throw new TypeError(`${name} must be a number above 0`)
    }
  }
}

const timeoutNames: Readonly<Record<keyof Timeouts, 1>> = { connectMs: 1, headersMs: 1, firstChunkMs: 1, idleMs: 1, totalMs: 1 }

const names: Readonly<Record<keyof TransportOptions, 1>> = {
  maxConnections: 1,
  maxQueue: 1,
  keepAliveMs: 1,
  http2: 1,
  ca: 1,
  proxy: 1,
  timeouts: 1,
  maxResponseBytes: 1,
  maxErrorBytes: 1,
  maxEventChars: 1,
  retry: 1,
  breaker: 1,
  hedge: 1,
  limits: 1,
  traceHeaders: 1
}
