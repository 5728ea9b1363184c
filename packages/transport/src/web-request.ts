import { abortable, type CallOptions, checkOptions, type HttpRequest, type Timeouts } from '@millrace/core'

/** What a call may take, by what is asked. */
export type OptionsOf = (url: string, init: RequestInit | undefined) => CallOptions

/** A `fetch` call as a request of ours. */
export interface WebRequest {
  readonly request: HttpRequest
  readonly redirect: RequestRedirect
  /** Of the call's options; `request.signal` is the caller's. */
  readonly alsoEndedBy: AbortSignal | undefined
}

/** Bodies up to here are sent from memory, and can be sent again; longer blobs, forms and requests are streamed, once. */
const maxRepeatableBytes = 16 * 1024 * 1024

/**
 * Reads what `fetch` was given, as the Fetch standard has it.
 *
 * @throws {TypeError} for what cannot be sent; it quotes neither URL nor header
 */
export async function readWebRequest(
  input: string | URL | Request,
  init: RequestInit | undefined,
  optionsOf: OptionsOf | undefined
): Promise<WebRequest> {
  const given = input instanceof Request ? input : undefined
  const url = withoutFragment(given?.url ?? String(input))
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

  signal?.throwIfAborted()
  const source = init?.body ?? given?.body ?? undefined
  if (source !== undefined && (method === 'GET' || method === 'HEAD')) throw new TypeError('a GET or HEAD must not have a body')
  const isOfRequest = source !== undefined && source === given?.body
  if (isOfRequest && given?.bodyUsed === true) throw new TypeError('the body of the Request has been read already')
  let body: HttpRequest['body']
  if (typeof source === 'string') {
    body = source
    headers['content-type'] ??= 'text/plain;charset=UTF-8'
  } else if (source !== undefined) {
    body = isOfRequest ? await readAhead(source as ReadableStream<Uint8Array>, signal) : await bodyOf(source, headers, signal)
  }
  return {
    request: { method, url, headers, body, signal, timeouts, deadline: options?.deadline, callId: options?.callId },
    redirect,
    alsoEndedBy: signalOf(options?.signal)
  }
}

const redirects: ReadonlySet<string> = new Set(['follow', 'error', 'manual'])

function withoutFragment(url: string): string {
  const at = url.indexOf('#')
  return at === -1 ? url : url.slice(0, at)
}

function signalOf(signal: AbortSignal | null | undefined): AbortSignal | undefined {
  if (signal === undefined || signal === null) return undefined
  if (typeof signal !== 'object' || typeof signal.addEventListener !== 'function') {
    throw new TypeError('signal must be an AbortSignal: the `signal` of an AbortController')
  }
  return signal
}

function methodOf(method: string): HttpRequest['method'] {
  const name = method.toUpperCase()
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
  const value = String(given).replace(outerSpace, '')
  if (!forbiddenInValue.test(value)) return value
  throw new TypeError(
    'the value of a header holds a control character or one beyond Latin-1: look for a line break within a key, or encode it'
  )
}

/** Headers of the request, and the clocks that stand among them, which never go over the wire. */
function readHeaders(
  given: HeadersInit | undefined,
  timeouts: Timeouts | undefined
): { headers: Record<string, string>; timeouts: Timeouts | undefined } {
  const headers: Record<string, string> = {}
  let limits = timeouts
  const pairs = given === undefined ? [] : Symbol.iterator in given ? given : Object.entries(given)
  for (const pair of pairs) {
    if (pair.length !== 2) throw new TypeError('headers must be an object, a Headers, or a list of pairs of name and value')
    const name = String(pair[0]).toLowerCase()
    if (!token.test(name)) throw new TypeError('the name of a header must be letters, digits and dashes, such as x-request-id')
    const value = valueOf(pair[1])
    if (name.startsWith(prefix)) limits = { ...limits, ...limitOf(name, value) }
    else headers[name] = headers[name] === undefined ? value : `${headers[name]}, ${value}`
  }
  return { headers, timeouts: limits }
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

function checkCallOptions(options: CallOptions): void {
  checkOptions<CallOptions>('createFetch({ options }) gave what it must not: a call', options, {
    signal: 1,
    stream: 1,
    tenant: 1,
    priority: 1,
    idempotencyKey: 1,
    timeouts: 1,
    deadline: 1,
    callId: 1
  })
  const { timeouts } = options
  if (timeouts === undefined) return
  checkOptions<Timeouts>('timeouts', timeouts, { connectMs: 1, headersMs: 1, firstChunkMs: 1, idleMs: 1, totalMs: 1 })
  for (const [name, limitMs] of Object.entries(timeouts)) {
    if (limitMs === undefined || (typeof limitMs === 'number' && limitMs > 0)) continue
    throw new TypeError(`timeouts.${name} must be a number of milliseconds above 0, or Infinity for no limit`)
  }
}

/** A body as bytes where that is possible, so that it can be sent again. */
async function bodyOf(
  body: Exclude<RequestInit['body'], string | null | undefined>,
  headers: Record<string, string>,
  signal: AbortSignal | undefined
): Promise<HttpRequest['body']> {
  if (ArrayBuffer.isView(body)) return new Uint8Array(body.buffer, body.byteOffset, body.byteLength)
  if (body instanceof ArrayBuffer) return new Uint8Array(body)
  // Streams of both kinds; they are the caller's own, with the length and type he says.
  if (Symbol.asyncIterator in body) return body as AsyncIterable<Uint8Array>
  if (!(body instanceof Blob || body instanceof FormData || body instanceof URLSearchParams)) {
    throw new TypeError(
      'body must be text, bytes, a Blob, FormData, URLSearchParams or a stream: give an object as JSON.stringify(it)'
    )
  }
  // The platform knows their bytes and their content type.
  const encoded = new Response(body)
  const type = encoded.headers.get('content-type')
  if (type !== null) headers['content-type'] ??= type
  if (blobBytes(body) <= maxRepeatableBytes) return abortable(encoded.bytes(), signal)
  headers['content-length'] ??= String(await lengthOf(body))
  return encoded.body as AsyncIterable<Uint8Array>
}

function blobBytes(body: Blob | FormData | URLSearchParams): number {
  if (body instanceof Blob) return body.size
  let bytes = 0
  if (body instanceof FormData) for (const value of body.values()) if (typeof value !== 'string') bytes += value.size
  return bytes
}

/** The length of the platform's encoding, which it does not tell: that of the same form with empty files, and the files. */
async function lengthOf(body: Blob | FormData | URLSearchParams): Promise<number> {
  if (!(body instanceof FormData)) return blobBytes(body)
  const empty = new FormData()
  for (const [name, value] of body) {
    if (typeof value === 'string') empty.append(name, value)
    else empty.append(name, new File([], value.name, { type: value.type }))
  }
  return blobBytes(body) + (await new Response(empty).bytes()).byteLength
}

/** Any text is a stream in a `Request`: one that is not too long is read, so that it can be sent again. */
async function readAhead(
  stream: ReadableStream<Uint8Array>,
  signal: AbortSignal | undefined
): Promise<Uint8Array | AsyncIterable<Uint8Array>> {
  const reader = stream.getReader()
  const pieces: Uint8Array[] = []
  let bytes = 0
  try {
    while (bytes <= maxRepeatableBytes) {
      const { done, value } = await abortable(reader.read(), signal)
      if (done) return Buffer.concat(pieces, bytes)
      bytes += value.byteLength
      pieces.push(value)
    }
  } catch (error) {
    void reader.cancel(error).catch(() => {}) // the caller is told of the first error
    throw error
  }
  return rest(pieces, reader)
}

async function* rest(pieces: Uint8Array[], reader: ReadableStreamDefaultReader<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* pieces.splice(0)
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      yield value
    }
  } finally {
    await reader.cancel()
  }
}
