import { checkOptions, type HttpRequest, type Timeouts } from '@millrace/core'
import type { FetchCallOptions, FetchOptions } from './fetch.ts'
import { ofConnection } from './http-request.ts'
import { checkTimeouts } from './transport-options.ts'
import { bodyOf, readAhead } from './web-body.ts'

/** A `fetch` call as a request of ours. */
export interface WebRequest {
  readonly request: HttpRequest
  readonly redirect: NonNullable<RequestInit['redirect']>
  /** Of the call's options; `request.signal` is the caller's. */
  readonly alsoEndedBy: AbortSignal | undefined
}

/**
 * Reads what `fetch` was given, as the Fetch standard has it.
 *
 * @throws {TypeError} for what cannot be sent; it quotes neither URL nor header
 */
export async function readWebRequest(
  input: string | URL | Request,
  init: RequestInit | undefined,
  optionsOf: FetchOptions['options']
): Promise<WebRequest> {
  if (init !== undefined && (typeof init !== 'object' || init === null))
    throw new TypeError('init must be an object, such as { method }')
  const given = typeof input !== 'string' && input instanceof Request ? input : undefined
  const url = withoutFragment(given?.url ?? (input as string | URL).toString())
  const options = optionsOf?.(url, init)
  if (options !== undefined) checkCallOptions(options)
  // A `null` of the caller takes the Request's signal away.
  const signal = signalOf(init?.signal === undefined ? given?.signal : init.signal)
  const { redirect = given?.redirect ?? 'follow', integrity = given?.integrity } = init ?? {}
  if (!redirects.has(redirect)) throw new TypeError("redirect must be 'follow', 'error' or 'manual'")
  if (integrity) throw new TypeError('integrity is not checked here: leave it out, and check the bytes yourself')
  if (init !== undefined && 'dispatcher' in init && init.dispatcher !== undefined) {
    throw new TypeError(
      'a dispatcher is not used here: the transport has its own sockets; give createTransport a `proxy` or `ca`'
    )
  }
  const method = methodOf(init?.method ?? given?.method ?? 'GET')
  const { headers, timeouts } = readHeaders(init?.headers ?? given?.headers, options?.timeouts)
  if (options?.idempotencyKey !== undefined) headers['idempotency-key'] = valueOf(options.idempotencyKey)

  if (signal?.aborted === true) throw signal.reason
  const source = init?.body ?? given?.body ?? undefined
  if (source !== undefined && (method === 'GET' || method === 'HEAD')) throw new TypeError('a GET or HEAD must not have a body')
  const isOfRequest = source !== undefined && source === given?.body
  if (isOfRequest && given.bodyUsed) throw new TypeError('the body of the Request has been read already')
  let body: HttpRequest['body']
  if (typeof source === 'string') {
    delete headers['content-length'] // of a body that is known it is counted; one that comes along may be another's
    body = source
    headers['content-type'] ??= 'text/plain;charset=UTF-8'
  } else if (source !== undefined) {
    body = isOfRequest ? await readAhead(source as ReadableStream<Uint8Array>, signal) : await bodyOf(source, headers, signal)
  }
  return {
    request: {
      method,
      url,
      headers,
      body,
      signal,
      timeouts,
      deadline: options?.deadline,
      callId: options?.callId,
      tally: options?.tally,
      permit: options?.permit ?? permitIn(init)
    },
    redirect,
    alsoEndedBy: signalOf(options?.signal)
  }
}

/** Where a limiter around this fetch puts it. */
function permitIn(init: RequestInit | undefined): object | undefined {
  const permit = init !== undefined && 'permit' in init ? init.permit : undefined
  return typeof permit === 'object' && permit !== null ? permit : undefined
}

const redirects: ReadonlySet<string> = new Set(['follow', 'error', 'manual'])

function withoutFragment(url: string): string {
  const at = url.indexOf('#')
  return at === -1 ? url : url.slice(0, at)
}

function signalOf(signal: AbortSignal | null | undefined): AbortSignal | undefined {
  if (signal === undefined || signal === null) return undefined
  if (typeof signal !== 'object' || typeof signal.aborted !== 'boolean' || typeof signal.addEventListener !== 'function') {
    throw new TypeError('signal must be an AbortSignal: the `signal` of an AbortController')
  }
  return signal
}

function methodOf(method: unknown): HttpRequest['method'] {
  const name = String(method).toUpperCase()
  if (!token.test(name) || name === 'CONNECT' || name === 'TRACE' || name === 'TRACK') {
    throw new TypeError('method must be a method of HTTP, such as POST; CONNECT, TRACE and TRACK are forbidden')
  }
  return name as HttpRequest['method']
}

/** RFC 9110, section 5.6.2. */
const token = /^[!#$%&'*+.^_`|~\w-]+$/
/** No other is let through by undici; of them only tab is a control character. */
const forbiddenInValue = /[^\t\x20-\x7e\x80-\xff]/
const outerSpace = /^[\t\n\r ]+|[\t\n\r ]+$/g

function valueOf(given: unknown): string {
  const value = typeof given === 'string' ? given : String(given)
  const isTrimmed = value.charCodeAt(0) > space && value.charCodeAt(value.length - 1) > space
  const trimmed = isTrimmed ? value : value.replace(outerSpace, '')
  if (!forbiddenInValue.test(trimmed)) return trimmed
  throw new TypeError(
    'the value of a header holds a control character or one beyond Latin-1: look for a line break within a key, or encode it'
  )
}

const space = 0x20

interface HeadersAndClocks {
  readonly headers: Record<string, string>
  timeouts: Timeouts | undefined
}

/** Headers of the request, and the clocks that stand among them, which never go over the wire. */
function readHeaders(given: RequestInit['headers'], timeouts: Timeouts | undefined): HeadersAndClocks {
  const read: HeadersAndClocks = { headers: {}, timeouts }
  if (given === undefined) return read
  if (typeof given !== 'object' || given === null) throw badHeaders()
  if (Symbol.iterator in given) {
    for (const pair of given) {
      if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== 'string') throw badHeaders()
      add(read, pair[0], pair[1])
    }
  } else for (const name of Object.keys(given)) add(read, name, given[name])
  return read
}

function badHeaders(): TypeError {
  return new TypeError('headers must be an object, a Headers, or a list of pairs of name and value')
}

function add(read: HeadersAndClocks, givenName: string, givenValue: unknown): void {
  const name = givenName.toLowerCase()
  if (!token.test(name)) throw new TypeError('the name of a header must be letters, digits and dashes, such as x-request-id')
  // As a browser has it: they are not the caller's to set, and often come along from a request that is passed on.
  if (ofConnection.has(name)) return
  const value = valueOf(givenValue)
  const { headers } = read
  if (name.startsWith(prefix)) read.timeouts = { ...read.timeouts, ...limitOf(name, value) }
  else headers[name] = Object.hasOwn(headers, name) ? `${headers[name]}, ${value}` : value
}

const prefix = 'x-millrace-'

const clocks: ReadonlyMap<string, keyof Timeouts> = new Map([
  ['x-millrace-connect-ms', 'connectMs'],
  ['x-millrace-headers-ms', 'headersMs'],
  ['x-millrace-first-chunk-ms', 'firstChunkMs'],
  ['x-millrace-idle-ms', 'idleMs'],
  ['x-millrace-total-ms', 'totalMs']
])

function limitOf(name: string, value: string): Timeouts {
  const clock = clocks.get(name)
  if (clock === undefined) {
    throw new TypeError(`a header that begins with ${prefix} is none we know; there are ${[...clocks.keys()].join(', ')}`)
  }
  const limitMs = value === 'Infinity' ? Number.POSITIVE_INFINITY : /^\d+(?:\.\d+)?$/.test(value) ? Number(value) : 0
  if (limitMs > 0) return { [clock]: limitMs }
  throw new TypeError(`${name} must be a number of milliseconds above 0, such as 5000, or Infinity for no limit`)
}

function checkCallOptions(options: FetchCallOptions): void {
  checkOptions<FetchCallOptions>('createFetch({ options }) gave what it must not: a call', options, {
    signal: 1,
    stream: 1,
    tenant: 1,
    priority: 1,
    idempotencyKey: 1,
    timeouts: 1,
    deadline: 1,
    callId: 1,
    tally: 1,
    permit: 1
  })
  if (options.timeouts !== undefined) checkTimeouts(options.timeouts)
}
