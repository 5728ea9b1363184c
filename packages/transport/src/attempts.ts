import {
  type ContentClock,
  checkOptions,
  clampTimer,
  type HttpRequest,
  type HttpResponse,
  MillraceError,
  type Send,
  startContentClock
} from '@millrace/core'
import type { Connection } from './connection.ts'
import { Exchange, isEventStream, isJson } from './exchange.ts'
import { holdBack } from './held-body.ts'
import { ofConnection } from './http-request.ts'
import type { OriginStats } from './origin.ts'
import type { Pool } from './pool.ts'
import { isRepeatable } from './retry.ts'
import { StreamedBody, streamedBody } from './streamed-body.ts'
import { checkCount, type Limits, type TransportOptions } from './transport-options.ts'

/** The innermost of a transport: its sockets, and one attempt over one of them. */
export interface Attempts {
  readonly attempt: Send
  /** Scheme, host and port of a request's URL. */
  originOf(url: string): string
  /** Opens sockets ahead. */
  warm(url: string, options?: WarmOptions): Promise<void>
  stats(): AttemptStats
  /** Refuses new attempts, lets running ones finish for `graceMs`, then aborts them. */
  end(graceMs: number): Promise<void>
}

export interface WarmOptions {
  /** Sockets to have open. @default 1 */
  readonly connections?: number | undefined
}

export interface AttemptStats {
  readonly origins: Readonly<Record<string, OriginStats>>
  readonly resent: number
  readonly traceFailures: number
}

/** `closing`: when it aborts, nothing new is begun. */
export function createAttempts(options: TransportOptions, limits: Limits, closing: AbortSignal): Attempts {
  const { maxConnections = 512, maxQueue = 10_000, keepAliveMs = 30_000, http2 = false, ca, proxy, traceHeaders } = options
  const { firstChunkMs, idleMs, maxResponseBytes, maxErrorBytes } = limits
  let pool: Pool | undefined
  let last: Target | undefined
  let resent = 0
  let traceFailures = 0

  /** undici is most of what importing this package would cost, so it is loaded while the caller goes on. */
  async function load(): Promise<Pool> {
    const { createPool } = await import('./pool.ts')
    pool = createPool({ maxConnections, maxQueue, keepAliveMs, http2, ca, proxy })
    return pool
  }
  const loading = load()
  // A failure is told to whoever asks for the pool; nobody may have by now.
  loading.catch(() => {})

  /** Nearly all requests of a transport go to one URL: the last one is not parsed again. */
  function locate(url: string): Target {
    if (last?.url !== url) last = parseUrl(url)
    return last
  }

  /** A hook that fails costs the trace, not the call; and it adds headers, it does not replace them. */
  function traceOf({ callId, attempt: number = 1, headers }: HttpRequest): Readonly<Record<string, string>> | undefined {
    if (callId === undefined || traceHeaders === undefined) return undefined
    try {
      const trace: Record<string, string> = {}
      for (const [name, value] of Object.entries<unknown>(traceHeaders(callId, number))) {
        if (typeof value !== 'string' || !isTraceHeader.test(`${name}: ${value}`) || isNotTraces(name)) {
          throw new TypeError('no header of a trace')
        }
        if (headers[name] === undefined) trace[name] = value
      }
      return trace
    } catch {
      traceFailures++
      return undefined
    }
  }

  async function attempt(request: HttpRequest): Promise<HttpResponse> {
    throwIfAborted(closing)
    const { signal } = request
    throwIfAborted(signal)
    const target = locate(request.url)
    const origin = (pool ?? (await loading)).origin(target.name)
    const trace = traceOf(request)
    for (let isFirst = true; ; isFirst = false) {
      const place = (isFirst ? origin.take() : origin.takeFresh()) ?? (await origin.wait(request, isFirst ? 'any' : 'fresh'))
      if (signal?.aborted === true) {
        place.giveBack()
        throw signal.reason
      }
      const exchange = new Exchange(guarded(request, place), origin, place, limits)
      const clock = contentClock(request, exchange)
      exchange.start(target.path, trace)
      try {
        const response = await exchange.head
        if (isPlain(response)) {
          clock?.[Symbol.dispose]()
          return response
        }
        return await opened(response, request, exchange, clock)
      } catch (error) {
        clock?.[Symbol.dispose]()
        if (!isFirst || !exchange.wasNotSeen || !isRepeatable(request)) throw error
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

  /** Loaded when it is needed, for few servers compress what nobody has asked to be compressed. */
  async function inflated(raw: HttpResponse, signal: AbortSignal | undefined): Promise<HttpResponse> {
    const { inflate } = await import('./inflate.ts')
    return inflate(raw, raw.status >= 400 ? maxErrorBytes : maxResponseBytes, signal)
  }

  /** What is compressed or a stream needs more than to be handed on. */
  async function opened(
    raw: HttpResponse,
    { timeouts, signal }: HttpRequest,
    exchange: Exchange,
    running: ContentClock | undefined
  ): Promise<HttpResponse> {
    const response = raw.headers['content-encoding'] === undefined ? raw : await inflated(raw, signal)
    if (response.status < 200 || response.status > 299 || !isEventStream(response.headers)) {
      running?.[Symbol.dispose]()
      return response
    }
    const silence = { firstChunkMs: timeouts?.firstChunkMs ?? firstChunkMs, idleMs: timeouts?.idleMs ?? idleMs }
    const isTimed = silence.firstChunkMs !== Number.POSITIVE_INFINITY || silence.idleMs !== Number.POSITIVE_INFINITY
    const clock = running ?? (isTimed ? startContentClock(silence, (error) => exchange.fail(error)) : undefined)
    try {
      return await holdBack(response, limits, clock)
    } catch (error) {
      clock?.[Symbol.dispose]()
      throw error
    }
  }

  return {
    attempt,
    originOf: (url) => locate(url).name,
    async warm(url, asked = {}) {
      checkOptions<WarmOptions>('warm', asked, { connections: 1 })
      const { connections = 1 } = asked
      checkCount('connections', connections)
      if (typeof url !== 'string') throw new TypeError('warm takes the URL of an origin as text')
      throwIfAborted(closing)
      const target = locate(url)
      await (pool ?? (await loading)).origin(target.name).warm(connections, limits.connectMs, closing)
    },
    stats: () => ({ origins: pool?.stats() ?? {}, resent, traceFailures }),
    async end(graceMs) {
      const loaded = await loading
      const grace = setTimeout(() => loaded.destroy(closedError()), clampTimer(graceMs))
      await loaded.drained()
      clearTimeout(grace)
      loaded.destroy(closedError())
    }
  }
}

/** Neither compressed nor an event stream: most answers. */
function isPlain({ headers }: HttpResponse): boolean {
  return headers['content-encoding'] === undefined && (isJson(headers) || !isEventStream(headers))
}

/** A stream is guarded, for undici does not survive one that fails in odd ways. Begun only now: until here it may be sent elsewhere. */
function guarded(request: HttpRequest, place: Connection): HttpRequest {
  if (isRepeatable(request) || request.body instanceof StreamedBody) return request
  try {
    return { ...request, body: streamedBody(request.body as AsyncIterable<Uint8Array>) }
  } catch (error) {
    place.giveBack()
    throw error
  }
}

function isNotTraces(name: string): boolean {
  return name === 'content-length' || ofConnection.has(name)
}

/** As they are written: a name in lower case, and a value without control characters. */
const isTraceHeader = /^[a-z0-9!#$%&'*+.^_`|~-]+: [\t\x20-\x7e\x80-\xff]*$/

/** A prompt that quotes these words has its quotes escaped. */
function asksForStream(headers: HttpRequest['headers'], body: HttpRequest['body']): boolean {
  if (headers.accept?.includes('text/event-stream') === true) return true
  return typeof body === 'string' && (body.includes('"stream":true') || body.includes('"stream": true'))
}

interface Target {
  readonly url: string
  /** Scheme, host and port. */
  readonly name: string
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
  return { url, name: parsed.origin, path: parsed.pathname + parsed.search }
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw signal.reason
}

export function closedError(): MillraceError<'closed'> {
  return new MillraceError('closed', 'the transport is closed', { details: {} })
}
