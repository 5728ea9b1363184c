import {
  type ContentClock,
  channels,
  checkOptions,
  clampTimer,
  type HttpRequest,
  type HttpResponse,
  MillraceError,
  pipe,
  type Send,
  startContentClock,
  type Timeouts
} from '@millrace/core'
import { type BreakerOptions, type BreakerState, createBreaker } from './breaker.ts'
import { Exchange, type ExchangeLimits, isEventStream, isJson } from './exchange.ts'
import { createFetch, type Fetch } from './fetch.ts'
import { createHedge, type HedgeOptions } from './hedge.ts'
import { holdBack } from './held-body.ts'
import { inflate } from './inflate.ts'
import type { Origin, OriginStats } from './origin.ts'
import { createPool } from './pool.ts'
import { createRetry, isRepeatable, type RetryOptions } from './retry.ts'
import { withTotal } from './total.ts'

export interface TransportOptions {
  /** Sockets an origin may have at a time. @default 512 */
  readonly maxConnections?: number | undefined
  /** Requests an origin may have waiting for a socket; the next one fails with `queue-full`. @default 10000 */
  readonly maxQueue?: number | undefined
  /** How long an idle socket is kept, unless the server's `keep-alive` hint says less. @default 30000 */
  readonly keepAliveMs?: number | undefined
  /** True: HTTP/2 where the server speaks it too, many calls on one socket. @default false */
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
  /** Headers to add to each attempt of a call; telemetry gives its trace here. */
  readonly traceHeaders?: ((callId: string) => Readonly<Record<string, string>>) | undefined
}

export interface TransportStats {
  /** By scheme, host and port. */
  readonly origins: Readonly<Record<string, OriginStats & { readonly breaker: BreakerState }>>
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
  /** The web face, for any SDK that takes a `fetch`. */
  readonly fetch: Fetch
  /**
   * Opens sockets to an origin (any URL of it) ahead of the first call, until there are `connections` of them (default 1).
   *
   * @throws {MillraceError} `network` or `timeout` when a socket cannot be opened
   */
  warm(url: string, options?: { readonly connections?: number }): Promise<void>
  stats(): TransportStats
  /**
   * Refuses new requests with `closed`, lets running ones finish for `graceMs`, then aborts them. Safe to call twice.
   * `graceMs` defaults to 10000.
   */
  close(options?: { readonly graceMs?: number }): Promise<void>
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
  checkOptions<TransportOptions>('createTransport', options, names)
  const { maxConnections = 512, maxQueue = 10_000, keepAliveMs = 30_000, maxResponseBytes = 16_777_216 } = options
  const { maxErrorBytes = 65_536, maxEventChars = 1_048_576 } = options
  const { http2 = false, ca, proxy, traceHeaders } = options
  positiveInteger('maxConnections', maxConnections)
  positiveInteger('maxQueue', maxQueue)
  positive('keepAliveMs', keepAliveMs)
  positive('maxResponseBytes', maxResponseBytes)
  positive('maxErrorBytes', maxErrorBytes)
  positive('maxEventChars', maxEventChars)
  if (typeof http2 !== 'boolean') throw new TypeError('http2 must be true or false')
  if (traceHeaders !== undefined && typeof traceHeaders !== 'function') {
    throw new TypeError('traceHeaders must be a function from a callId to headers, such as telemetry.traceHeaders')
  }
  const { idleMs, firstChunkMs, totalMs, connectMs, headersMs } = limitsOf(options.timeouts)
  const limits: ExchangeLimits = { connectMs, headersMs, maxResponseBytes, maxErrorBytes }

  const closing = new AbortController()
  const pool = createPool({ maxConnections, maxQueue, keepAliveMs, http2, ca, proxy })
  const retry = options.retry === false ? undefined : createRetry(options.retry, closing.signal)
  const breaker = options.breaker === false ? undefined : createBreaker(options.breaker)
  const hedge = options.hedge === undefined || options.hedge === false ? undefined : createHedge(options.hedge)
  let closed: Promise<void> | undefined
  let last: Target | undefined
  let resent = 0
  let traceFailures = 0

  /** Nearly all requests of a transport go to one URL: the last one is not parsed again. */
  function locate(url: string): Target {
    if (last?.url !== url) last = parseUrl(url, pool.origin)
    return last
  }

  /** A hook that throws costs the trace, not the call. */
  function traceOf({ callId }: HttpRequest): Readonly<Record<string, string>> | undefined {
    if (callId === undefined || traceHeaders === undefined) return undefined
    try {
      return traceHeaders(callId)
    } catch {
      traceFailures++
      return undefined
    }
  }

  async function attempt(request: HttpRequest): Promise<HttpResponse> {
    if (closed !== undefined) throw closedError()
    const { signal } = request
    throwIfAborted(signal)
    const { origin, path } = locate(request.url)
    const trace = traceOf(request)
    for (let isFirst = true; ; isFirst = false) {
      const place = (isFirst ? origin.take() : origin.takeFresh()) ?? (await origin.wait(request, isFirst ? 'any' : 'fresh'))
      if (signal?.aborted === true) {
        place.giveBack()
        throw signal.reason
      }
      const exchange = new Exchange(request, origin, place, limits)
      const clock = contentClock(request, exchange)
      exchange.start(path, trace)
      try {
        const response = await exchange.head
        if (isPlain(response)) {
          clock?.[Symbol.dispose]()
          return response
        }
        return await opened(response, request, exchange, clock)
      } catch (error) {
        clock?.[Symbol.dispose]()
        if (!isFirst || !exchange.wasNotSeen || !isRepeatable(request) || closed !== undefined) throw error
        resent++
      }
    }
  }

  /** The clock of a request that asks for a stream runs from its start; of any other that gets one, from its head. */
  function contentClock({ timeouts, headers, body }: HttpRequest, exchange: Exchange): ContentClock | undefined {
    const firstMs = timeouts?.firstChunkMs ?? firstChunkMs
    if (firstMs === Number.POSITIVE_INFINITY || !asksForStream(headers, body)) return undefined
    const clock = startContentClock({ firstChunkMs: firstMs, idleMs: timeouts?.idleMs ?? idleMs }, (error) =>
      exchange.fail(error)
    )
    clock.waiting()
    return clock
  }

  /** What is compressed or a stream needs more than to be handed on. */
  async function opened(
    raw: HttpResponse,
    { timeouts, signal }: HttpRequest,
    exchange: Exchange,
    running: ContentClock | undefined
  ): Promise<HttpResponse> {
    const response = inflate(raw, raw.status >= 400 ? maxErrorBytes : maxResponseBytes, signal)
    if (response.status < 200 || response.status > 299 || !isEventStream(response.headers)) {
      running?.[Symbol.dispose]()
      return response
    }
    const silence = { firstChunkMs: timeouts?.firstChunkMs ?? firstChunkMs, idleMs: timeouts?.idleMs ?? idleMs }
    const isTimed = silence.firstChunkMs !== Number.POSITIVE_INFINITY || silence.idleMs !== Number.POSITIVE_INFINITY
    const clock = running ?? (isTimed ? startContentClock(silence, (error) => exchange.fail(error)) : undefined)
    try {
      return await holdBack(response, { maxResponseBytes, maxEventChars }, clock)
    } catch (error) {
      clock?.[Symbol.dispose]()
      throw error
    }
  }

  const observed = observe(
    attempt,
    () => transport,
    (url) => locate(url).origin.name
  )
  const layers = [breaker?.layer, hedge?.layer, retry?.layer, withTotal(totalMs)].flatMap((layer) => layer ?? [])
  const send = pipe(observed, ...layers)

  async function shutDown(graceMs: number): Promise<void> {
    closing.abort(closedError())
    const grace = setTimeout(() => pool.destroy(closedError()), clampTimer(graceMs))
    await pool.drained()
    clearTimeout(grace)
    pool.destroy(closedError())
  }

  const transport: Transport = {
    send,
    fetch: createFetch(send),
    async warm(url, { connections = 1 } = {}) {
      positiveInteger('connections', connections)
      if (closed !== undefined) throw closedError()
      await locate(url).origin.warm(connections, limits.connectMs, closing.signal)
    },
    stats() {
      const { retries = 0, denied = 0 } = retry?.stats() ?? {}
      const { hedges = 0, won = 0 } = hedge?.stats() ?? {}
      return {
        origins: Object.fromEntries(
          Object.entries(pool.stats()).map(([name, stats]) => [name, { ...stats, breaker: breaker?.state(name) ?? 'closed' }])
        ),
        retries,
        retriesDenied: denied,
        resent,
        hedges,
        hedgesWon: won,
        traceFailures
      }
    },
    close({ graceMs = 10_000 } = {}) {
      closed ??= shutDown(graceMs)
      return closed
    },
    [Symbol.asyncDispose]: () => transport.close()
  }
  return transport
}

/** Neither compressed nor an event stream: most answers. */
function isPlain({ headers }: HttpResponse): boolean {
  return headers['content-encoding'] === undefined && (isJson(headers) || !isEventStream(headers))
}

/** A prompt that quotes these words has its quotes escaped. */
function asksForStream(headers: HttpRequest['headers'], body: HttpRequest['body']): boolean {
  if (headers.accept?.includes('text/event-stream') === true) return true
  return typeof body === 'string' && (body.includes('"stream":true') || body.includes('"stream": true'))
}

type Limits = { readonly [K in keyof Timeouts]-?: number }

function limitsOf(timeouts: Timeouts = {}): Limits {
  checkOptions<Timeouts>('timeouts', timeouts, { connectMs: 1, headersMs: 1, firstChunkMs: 1, idleMs: 1, totalMs: 1 })
  const {
    connectMs = 10_000,
    headersMs = Number.POSITIVE_INFINITY,
    firstChunkMs = Number.POSITIVE_INFINITY,
    idleMs = 60_000,
    totalMs = 600_000
  } = timeouts
  const limits = { connectMs, headersMs, firstChunkMs, idleMs, totalMs }
  for (const [name, value] of Object.entries(limits)) positive(`timeouts.${name}`, value)
  return limits
}

/** Tells the channels of each attempt. */
function observe(attempt: Send, owner: () => object, originOf: (url: string) => string): Send {
  return (request) => {
    if (!channels.attemptStart.hasSubscribers && !channels.attemptEnd.hasSubscribers) return attempt(request)
    return told(attempt, request, owner(), originOf)
  }
}

async function told(
  attempt: Send,
  request: HttpRequest,
  owner: object,
  originOf: (url: string) => string
): Promise<HttpResponse> {
  const startedAt = performance.now()
  const facts = { owner, callId: request.callId ?? '', attempt: request.attempt ?? 1, origin: originOf(request.url) }
  channels.attemptStart.publish({ ...facts, method: request.method })
  try {
    const response = await attempt(request)
    channels.attemptEnd.publish({ ...facts, elapsedMs: performance.now() - startedAt, status: response.status })
    return response
  } catch (error) {
    channels.attemptEnd.publish({ ...facts, elapsedMs: performance.now() - startedAt, error })
    throw error
  }
}

interface Target {
  readonly url: string
  readonly origin: Origin
  readonly path: string
}

/** The message never quotes the URL: a key may stand in its query. */
function parseUrl(url: string, originOf: (name: string) => Origin): Target {
  const parsed = URL.parse(url)
  if (parsed === null || (parsed.protocol !== 'http:' && parsed.protocol !== 'https:')) {
    throw new MillraceError('invalid-request', 'the url must be an absolute http or https address', { details: { path: 'url' } })
  }
  if (parsed.username !== '' || parsed.password !== '') {
    throw new MillraceError('invalid-request', 'the url must not hold a user name or password; send a header', {
      details: { path: 'url' }
    })
  }
  return { url, origin: originOf(parsed.origin), path: parsed.pathname + parsed.search }
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw signal.reason
}

function closedError(): MillraceError<'closed'> {
  return new MillraceError('closed', 'the transport is closed', { details: {} })
}

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
  traceHeaders: 1
}

function positive(name: string, value: number): void {
  if (!(typeof value === 'number' && value > 0)) throw new TypeError(`${name} must be a number above 0, not ${value}`)
}

function positiveInteger(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1) throw new TypeError(`${name} must be a whole number of at least 1, not ${value}`)
}
