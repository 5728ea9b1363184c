import {
  type CallOptions,
  checkOptions,
  type HttpRequest,
  type HttpResponse,
  isMillraceError,
  linkAbort,
  MillraceError,
  onAbort,
  type Send
} from '@millrace/core'
import { endingBody } from './ending-body.ts'
import { LightResponse, watchAbandoned } from './response.ts'
import { StreamedBody } from './streamed-body.ts'
import { readWebRequest, type WebRequest } from './web-request.ts'

export type Fetch = typeof globalThis.fetch

/** Options of a call that concern the wire, and those that layers around it read from the same function. */
export type FetchCallOptions = Pick<
  CallOptions,
  'callId' | 'deadline' | 'idempotencyKey' | 'permit' | 'priority' | 'signal' | 'stream' | 'tally' | 'tenant' | 'timeouts'
>

export interface FetchOptions {
  /**
   * What a call may take, by what is asked; nothing of it goes over the wire. For one call alone, its headers can say the
   * same: `x-millrace-total-ms`, and so for `connect`, `headers`, `first-chunk` and `idle`. A `permit` may also stand in
   * `init`, where `limiter.fetch` around this puts it.
   */
  readonly options?: ((url: string, init: RequestInit | undefined) => FetchCallOptions) | undefined
}

/**
 * The web face of a `Send`, to hand to any SDK that takes a `fetch`. Non-2xx responses come back untouched. A failure is a
 * `TypeError`, as the Fetch standard has it, with our error as its cause; the caller's own abort is rethrown as it is. Behind
 * the head our errors come out of the body as they are.
 *
 * Redirects of a GET or HEAD are followed unless `redirect` says otherwise, at most ten; to another origin go only `accept`,
 * `accept-language`, `range` and `user-agent`. Those of any other method are handed back. No header is added but what retry
 * adds. `cache`, `credentials`, `duplex`, `keepalive`, `mode` and `priority` mean nothing here.
 *
 * @throws {TypeError} for options that make no sense
 *
 * @example
 * const fetch = createFetch(transport.send, { options: () => ({ timeouts: { totalMs: 60_000 } }) })
 * const client = new OpenAI({ fetch, maxRetries: 0 })
 */
export function createFetch(send: Send, fetchOptions: FetchOptions = {}): Fetch {
  if (typeof send !== 'function') throw new TypeError('createFetch takes a send, such as that of createTransport()')
  checkOptions<FetchOptions>('createFetch', fetchOptions, { options: 1 })
  const { options: optionsOf } = fetchOptions
  if (optionsOf !== undefined && typeof optionsOf !== 'function') {
    throw new TypeError('options must be a function: (url, init) => ({ timeouts: { totalMs: 60_000 } })')
  }
  const abandoned = watchAbandoned()

  return async (input, init) => {
    const { request, redirect, alsoEndedBy } = await readWebRequest(input, init, optionsOf)
    const sendOne = alsoEndedBy === undefined ? send : endedBy(alsoEndedBy, send)
    try {
      for (let hop: HttpRequest = request, hops = 0; ; hops++) {
        const response = await sendOne(hop)
        const next = isRedirect(response.status) ? nextHop(hop, response, redirect) : undefined
        if (next === undefined) {
          const facts = { url: hop.url, redirected: hops > 0, mayHaveBody: hop.method !== 'HEAD' }
          return new LightResponse(response, facts, abandoned)
        }
        response.body.cancel()
        if (hops === maxRedirects) throw unexpected(response, `it redirected more than ${maxRedirects} times`)
        hop = next
      }
    } catch (error) {
      if (request.body instanceof StreamedBody) request.body.cancel(error)
      throw asFetchError(error, request.signal, alsoEndedBy)
    }
  }
}

const maxRedirects = 10

/** A `Send` whose calls another signal ends too. */
function endedBy(signal: AbortSignal, send: Send): Send {
  return async (request) => {
    const linked = linkAbort(request.signal)
    const off = onAbort(signal, (reason) => linked.abort(reason))
    function end(): void {
      off()
      linked[Symbol.dispose]()
    }
    try {
      const response = await send({ ...request, signal: linked.signal })
      if (response.body.complete !== true) return { ...response, body: endingBody(response.body, end) }
      end()
      return response
    } catch (error) {
      end()
      throw error
    }
  }
}

function asFetchError(error: unknown, ...signals: readonly (AbortSignal | undefined)[]): unknown {
  if (signals.some((signal) => signal?.aborted === true && error === signal.reason) || !isMillraceError(error)) return error
  // The AI SDK knows a failed connection by these two words.
  return new TypeError(isMillraceError(error, 'invalid-request') ? error.message : 'fetch failed', { cause: error })
}

function isRedirect(status: number): boolean {
  return status === 301 || status === 302 || status === 303 || status === 307 || status === 308
}

/** Where a redirect leads; undefined where it is not to be followed. */
function nextHop(request: HttpRequest, response: HttpResponse, redirect: WebRequest['redirect']): HttpRequest | undefined {
  if (redirect === 'error') {
    response.body.cancel()
    throw unexpected(response, "it redirects, and `redirect` is 'error'")
  }
  const { location } = response.headers
  if (redirect === 'manual' || location === undefined || (request.method !== 'GET' && request.method !== 'HEAD')) return undefined
  const from = new URL(request.url)
  const to = URL.parse(location, request.url)
  if (to === null || (to.protocol !== from.protocol && to.protocol !== 'https:')) {
    response.body.cancel()
    throw unexpected(response, 'it redirects to what is no address, or from https to http')
  }
  to.hash = ''
  return { ...request, url: to.href, headers: to.origin === from.origin ? request.headers : harmless(request.headers) }
}

/** Any other header may be a credential. */
function harmless(headers: HttpRequest['headers']): HttpRequest['headers'] {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => harmlessNames.has(name)))
}

const harmlessNames: ReadonlySet<string> = new Set(['accept', 'accept-language', 'range', 'user-agent'])

function unexpected({ status }: HttpResponse, what: string): MillraceError<'protocol'> {
  return new MillraceError('protocol', `the server's answer is not followed: ${what}`, {
    details: { reason: 'unexpected', status }
  })
}
