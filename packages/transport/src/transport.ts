import {
  channels,
  checkOptions,
  clampTimer,
  type HttpRequest,
  type HttpResponse,
  MillraceError,
  pipe,
  type Send
} from '@millrace/core'
import { Exchange } from './exchange.ts'
import { createFetch, type Fetch } from './fetch.ts'
import { inflate } from './inflate.ts'
import { createPool, type OriginStats, type Pool } from './pool.ts'
import { type RetryOptions, retry } from './retry.ts'
import { withTotal } from './total.ts'
import { wireError } from './wire-error.ts'

export interface TransportOptions {
  /** Sockets an origin may have at a time. @default 512 */
  readonly maxConnections?: number | undefined
  /** Requests an origin may have waiting for a socket; the next one fails with `queue-full`. @default 10000 */
  readonly maxQueue?: number | undefined
  /** How long an idle socket is kept, unless the server's `keep-alive` hint says less. @default 30000 */
  readonly keepAliveMs?: number | undefined
  /** DNS, TCP and TLS together; a call may set its own in `timeouts`. @default 10000 */
  readonly connectMs?: number | undefined
  /** The longest response, inflated, in bytes. An event stream has no such bound: its reader holds it back. @default 16777216 */
  readonly maxResponseBytes?: number | undefined
  /** False: every request is tried once. @default { maxAttempts: 3 } */
  readonly retry?: RetryOptions | false | undefined
  /** Headers to add to each attempt of a call; telemetry gives its trace here. */
  readonly traceHeaders?: ((callId: string) => Readonly<Record<string, string>>) | undefined
}

export interface TransportStats {
  /** By scheme, host and port. */
  readonly origins: Readonly<Record<string, OriginStats>>
  /** How often `traceHeaders` threw; the attempt went on without a trace. */
  readonly traceFailures: number
}

export interface Transport extends AsyncDisposable {
  /** The lean face: the head's promise, then the body in batches. */
  readonly send: Send
  /** The web face, for any SDK that takes a `fetch`. */
  readonly fetch: Fetch
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
  const {
    maxConnections = 512,
    maxQueue = 10_000,
    keepAliveMs = 30_000,
    connectMs = 10_000,
    maxResponseBytes = 16_777_216
  } = options
  const { traceHeaders } = options
  positiveInteger('maxConnections', maxConnections)
  positiveInteger('maxQueue', maxQueue)
  positive('keepAliveMs', keepAliveMs)
  positive('connectMs', connectMs)
  positive('maxResponseBytes', maxResponseBytes)
  if (traceHeaders !== undefined && typeof traceHeaders !== 'function') {
    throw new TypeError('traceHeaders must be a function from a callId to headers, such as telemetry.traceHeaders')
  }

  const pool = createPool({ maxConnections, maxQueue, keepAliveMs, connectMs })
  const closing = new AbortController()
  const running = new Set<Exchange>()
  const idle = Promise.withResolvers<void>()
  let closed: Promise<void> | undefined
  let last: Target | undefined
  let traceFailures = 0

  /** Nearly all requests of a transport go to one URL: the last one is not parsed again. */
  function locate(url: string): Target {
    if (last?.url !== url) last = parseUrl(url)
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
    const place = pool.origin(origin)
    await place.gate.enter(signal)
    try {
      if (closed !== undefined) throw closedError()
      throwIfAborted(signal)
    } catch (error) {
      place.gate.leave()
      throw error
    }
    const exchange = new Exchange(
      request,
      maxResponseBytes,
      () => place.requests++,
      () => {
        running.delete(exchange)
        place.gate.leave()
        if (closed !== undefined && running.size === 0) idle.resolve()
      }
    )
    running.add(exchange)
    dispatch(pool, exchange, origin, path, request, traceOf(request))
    exchange.startConnectClock(request.timeouts?.connectMs ?? connectMs)
    return inflate(await exchange.head, maxResponseBytes, signal)
  }

  const observed = observe(
    attempt,
    () => transport,
    (url) => locate(url).origin
  )
  const send =
    options.retry === false ? pipe(observed, withTotal) : pipe(observed, retry(options.retry, closing.signal), withTotal)

  /** Not by the agent's own close: that one waits for sockets nobody needs any more, such as one that never connects. */
  async function shutDown(graceMs: number): Promise<void> {
    closing.abort(closedError())
    const grace = setTimeout(() => {
      for (const exchange of running) exchange.fail(closedError())
    }, clampTimer(graceMs))
    if (running.size > 0) await idle.promise
    clearTimeout(grace)
    await pool.destroy()
  }

  const transport: Transport = {
    send,
    fetch: createFetch(send),
    stats: () => ({ origins: pool.stats(), traceFailures }),
    close({ graceMs = 10_000 } = {}) {
      closed ??= shutDown(graceMs)
      return closed
    },
    [Symbol.asyncDispose]: () => transport.close()
  }
  return transport
}

function dispatch(
  pool: Pool,
  exchange: Exchange,
  origin: string,
  path: string,
  request: HttpRequest,
  trace: Readonly<Record<string, string>> | undefined
): void {
  const { method, headers, body = null } = request
  try {
    pool.dispatch(
      { origin, path, method, headers: trace === undefined ? headers : { ...headers, ...trace }, body: body as Uint8Array },
      exchange
    )
  } catch (error) {
    exchange.fail(wireError(error, 'send'))
  }
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
  readonly origin: string
  readonly path: string
}

/** The message never quotes the URL: a key may stand in its query. */
function parseUrl(url: string): Target {
  const parsed = URL.parse(url)
  if (parsed === null || (parsed.protocol !== 'http:' && parsed.protocol !== 'https:')) {
    throw new MillraceError('invalid-request', 'the url must be an absolute http or https address', { details: { path: 'url' } })
  }
  if (parsed.username !== '' || parsed.password !== '') {
    throw new MillraceError('invalid-request', 'the url must not hold a user name or password; send a header', {
      details: { path: 'url' }
    })
  }
  return { url, origin: parsed.origin, path: parsed.pathname + parsed.search }
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
  connectMs: 1,
  maxResponseBytes: 1,
  retry: 1,
  traceHeaders: 1
}

function positive(name: string, value: number): void {
  if (!(typeof value === 'number' && value > 0)) throw new TypeError(`${name} must be a number above 0, not ${value}`)
}

function positiveInteger(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1) throw new TypeError(`${name} must be a whole number of at least 1, not ${value}`)
}
