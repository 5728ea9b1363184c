import { abortable, checkOptions, isJsonObject, parseJson } from '@millrace/core'
import type { WirePost } from './fetch-key.ts'
import { type CacheCallOptions, checkCall } from './options.ts'

export type Fetch = typeof globalThis.fetch

/** What a call through `cache.fetch` can say. Nothing of it goes over the wire. */
export interface FetchCallOptions extends CacheCallOptions {
  /** Whom it is for: part of the key. */
  readonly tenant?: string | undefined
  /** Names the call in messages on the channels. @default none */
  readonly callId?: string | undefined
}

export interface FetchOptions {
  /**
   * What a call may say, by what is asked. For one call alone its headers say the same, and count more:
   * `x-millrace-cache` (`bypass`, `refresh` or `no-store`), `x-millrace-cache-ttl-ms`, `x-millrace-cache-max-age-ms`,
   * `x-millrace-cache-tags` (separated by commas), `x-millrace-tenant`. Those are taken out; others go on. A wrong one is
   * answered with a 400 that says so, for clients take what `fetch` throws for a lost connection.
   * @default nothing is said
   */
  readonly options?: ((url: string, init: RequestInit | undefined) => FetchCallOptions | undefined) | undefined
  /**
   * Headers of requests that make no difference to the answer, in lower case, beside those known to (such as `traceparent`,
   * `x-request-id`, `user-agent`, `x-stainless-*`). Every other one is part of the key.
   * @default []
   */
  readonly ignoreHeaders?: readonly string[] | undefined
}

/** @throws {TypeError} for a wrong option */
export function checkFetchOptions(options: FetchOptions): void {
  checkOptions<FetchOptions>('cache.fetch', options, { options: 1, ignoreHeaders: 1 })
  if (options.options !== undefined && typeof options.options !== 'function') {
    throw new TypeError('options must be a function: (url, init) => ({ ttlMs: 60_000 })')
  }
  const { ignoreHeaders = [] } = options
  if (!Array.isArray(ignoreHeaders) || !ignoreHeaders.every((name) => typeof name === 'string' && /^[a-z0-9-]+$/.test(name))) {
    throw new TypeError("ignoreHeaders must be a list of header names in lower case, such as ['x-my-trace']")
  }
}

/** A header of ours that makes no sense. */
export class WrongHeader extends TypeError {}

/** A `fetch` call, read as far as it can be without taking anything from it. */
export interface FetchCall {
  readonly url: string
  readonly signal: AbortSignal | undefined
  readonly asked: FetchCallOptions
  readonly totalMs: number | undefined
  /** Names in lower case, without what was for us. */
  readonly headers: Readonly<Record<string, string>>
  /** The `Request` itself where there is one, for all else it says: `credentials`, `redirect`, a dispatcher. */
  readonly target: string | Request
  /** What passes by is called with this. */
  readonly passed: readonly [input: string | URL | Request, init: RequestInit | undefined]
}

/** @throws {TypeError} for headers that are none, and for those of ours that make no sense */
export function readCall(
  input: string | URL | Request,
  init: RequestInit | undefined,
  optionsOf: FetchOptions['options']
): FetchCall {
  const given = requestOf(input)
  const url = given?.url ?? (input as string | URL).toString()
  const headers = readHeaders(init?.headers ?? given?.headers)
  const ours = Object.keys(headers).filter(isOurs)
  const asked = askedBy(headers, ours, optionsOf?.(url, init))
  for (const name of ours) delete headers[name]
  const signal = (init?.signal === undefined ? given?.signal : init.signal) ?? undefined
  const total = Number(headers[totalHeader])
  return {
    url,
    signal,
    asked,
    totalMs: total > 0 ? total : undefined,
    headers,
    target: given ?? url,
    passed: [input, ours.length === 0 ? init : { ...init, headers }]
  }
}

function requestOf(input: string | URL | Request): Request | undefined {
  return typeof input === 'object' && input instanceof Request ? input : undefined
}

/** @throws {TypeError} as `fetch` does, for what is no header */
function readHeaders(given: RequestInit['headers']): Record<string, string> {
  // No prototype: `__proto__` is a name that HTTP allows.
  const headers: Record<string, string> = Object.create(null)
  if (given === undefined) return headers
  for (const [name, value] of given instanceof Headers ? given : new Headers(given)) headers[name] = value
  return headers
}

/** A clock of the transport: each asker's own, while the call they share goes on. */
export const totalHeader = 'x-millrace-total-ms'

const [cachePrefix, tenantHeader] = ['x-millrace-cache', 'x-millrace-tenant'] as const

function isOurs(name: string): boolean {
  return name.startsWith(cachePrefix) || name === tenantHeader || mistaken.has(name)
}

/** What others would call them. */
const mistaken: ReadonlySet<string> = new Set(
  ['ttl-ms', 'ttl', 'max-age-ms', 'max-age', 'tags', 'bypass', 'refresh', 'no-store'].map((name) => `x-millrace-${name}`)
)

function askedBy(
  headers: Readonly<Record<string, string>>,
  ours: readonly string[],
  options: FetchCallOptions | undefined
): FetchCallOptions {
  if (options !== undefined) {
    const isPromise = typeof (options as { then?: unknown } | null)?.then === 'function'
    if (isPromise || Object.prototype.toString.call(options) !== '[object Object]') {
      throw new TypeError(
        `cache.fetch({ options }) gave ${isPromise ? 'a promise' : 'no plain object'}: it must give an object at once, such as { ttlMs: 60_000 }, or undefined`
      )
    }
    checkOptions<FetchCallOptions>('cache.fetch({ options }) gave what it must not: a call', options, {
      ttlMs: 1,
      maxAgeMs: 1,
      noStore: 1,
      bypass: 1,
      refresh: 1,
      tags: 1,
      tenant: 1,
      callId: 1
    })
  }
  const asked: FetchCallOptions = Object.assign({}, options, ...ours.map((name) => read(name, headers[name] as string)))
  const { tenant: _tenant, callId: _callId, ...cache } = asked
  try {
    checkCall(cache)
  } catch (error) {
    throw ours.length === 0 ? error : new WrongHeader((error as Error).message)
  }
  return asked
}

function read(name: string, value: string): FetchCallOptions {
  switch (name) {
    case cachePrefix:
      if (value === 'bypass') return { bypass: true }
      if (value === 'refresh') return { refresh: true }
      if (value === 'no-store') return { noStore: true }
      throw new WrongHeader(`${cachePrefix} must be bypass, refresh or no-store`)
    case 'x-millrace-cache-ttl-ms':
      return { ttlMs: milliseconds(name, value) }
    case 'x-millrace-cache-max-age-ms':
      return { maxAgeMs: milliseconds(name, value) }
    case 'x-millrace-cache-tags':
      return { tags: value.split(',').flatMap((tag) => tag.trim() || []) }
    case tenantHeader:
      return { tenant: value }
    default:
      throw new WrongHeader(
        `no header is called ${name}: there are ${cachePrefix} with -ttl-ms, -max-age-ms and -tags, and ${tenantHeader}`
      )
  }
}

function milliseconds(name: string, value: string): number {
  if (/^\d+(?:\.\d+)?$/.test(value)) return Number(value)
  throw new WrongHeader(`${name} must be a number of milliseconds from 0 up, such as 60000`)
}

/** A call that may be cached: a POST of a JSON object, with what sends it again. */
export interface FetchPost extends WirePost {
  /** The body as it was given, out of the caller's reach. */
  readonly sent: string | Uint8Array<ArrayBuffer>
  readonly text: string
}

/**
 * The call as a POST of a JSON object, or undefined for any other: forms, files and streams are not touched. Of a `Request`
 * a clone is read, so that it can still be passed on.
 *
 * @throws {unknown} `signal.reason`
 */
export async function readPost({ passed, url: href, headers, signal }: FetchCall): Promise<FetchPost | undefined> {
  const [input, init] = passed
  const given = requestOf(input)
  if ((init?.method ?? given?.method ?? 'GET').toUpperCase() !== 'POST') return undefined
  const url = URL.parse(href)
  if (url === null) return undefined
  const contentType = headers['content-type']
  if (contentType !== undefined && !json.test(contentType)) return undefined
  let sent = bodyOf(init?.body)
  if (sent === undefined && (init?.body ?? null) === null && given !== undefined && !given.bodyUsed) {
    if (contentType === undefined) return undefined
    sent = new Uint8Array(await abortable(given.clone().arrayBuffer(), signal))
  }
  const text = typeof sent === 'object' ? textOf(sent) : sent
  const body = text === undefined ? undefined : parseJson(text)
  if (sent === undefined || text === undefined || !isJsonObject(body)) return undefined
  // What `fetch` says of a text that comes without a type.
  const added = contentType === undefined && typeof sent === 'string' ? { 'content-type': 'text/plain' } : {}
  return { url, headers: { ...headers, ...added }, body, sent, text }
}

const json = /^[a-z]+\/(?:[\w.-]+\+)?json\s*(?:;|$)/i

function bodyOf(body: unknown): string | Uint8Array<ArrayBuffer> | undefined {
  if (typeof body === 'string') return body
  if (body instanceof ArrayBuffer) return new Uint8Array(body.slice())
  // A copy: the caller may use its buffer again.
  return ArrayBuffer.isView(body) ? new Uint8Array(body.buffer, body.byteOffset, body.byteLength).slice() : undefined
}

/** Undefined for what is no UTF-8. Nothing is dropped of it, not even a byte order mark. */
export function textOf(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return undefined // told by the result
  }
}
