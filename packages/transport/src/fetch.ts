import { type CallOptions, checkOptions, type HttpRequest, isMillraceError, type Send } from '@millrace/core'
import { LightResponse } from './response.ts'

export type Fetch = typeof globalThis.fetch

export interface FetchOptions {
  /** What the call may take, by what is asked; nothing of it goes over the wire. */
  readonly options?: ((url: string, init: RequestInit | undefined) => CallOptions) | undefined
}

/**
 * The web face of a `Send`, to hand to any SDK that takes a `fetch`. Non-2xx responses come back untouched and redirects
 * are not followed, so a credential never leaves its origin. A failure is a `TypeError`, as the Fetch standard has it,
 * with our error as its cause; the caller's own abort is rethrown as it is.
 *
 * @example
 * const client = new OpenAI({ fetch: transport.fetch, maxRetries: 0 })
 */
export function createFetch(send: Send, fetchOptions: FetchOptions = {}): Fetch {
  if (typeof send !== 'function') throw new TypeError('createFetch takes a send, such as that of createTransport()')
  checkOptions<FetchOptions>('createFetch', fetchOptions, { options: 1 })
  const { options: optionsOf } = fetchOptions
  return async (input, init) => {
    const given = input instanceof Request ? input : undefined
    const url = input instanceof Request ? input.url : input.toString()
    const options = optionsOf?.(url, init) ?? {}
    const signal = init?.signal ?? given?.signal ?? options.signal
    const headers = new Headers(init?.headers ?? given?.headers)
    const body = await bodyOf(init?.body ?? given?.body, headers)
    if (options.idempotencyKey !== undefined) headers.set('idempotency-key', options.idempotencyKey)
    const request: HttpRequest = {
      method: (init?.method ?? given?.method ?? 'GET').toUpperCase() as HttpRequest['method'],
      url,
      headers: Object.fromEntries(headers),
      body,
      signal,
      timeouts: options.timeouts,
      callId: options.callId
    }
    try {
      return new LightResponse(await send(request), url)
    } catch (error) {
      if (signal?.aborted === true && error === signal.reason) throw error
      throw isMillraceError(error) ? new TypeError('fetch failed', { cause: error }) : error
    }
  }
}

/** A body as bytes or text where that is possible, so that it can be sent again. */
async function bodyOf(body: RequestInit['body'], headers: Headers): Promise<HttpRequest['body']> {
  if (body === null || body === undefined) return undefined
  if (typeof body === 'string') {
    if (!headers.has('content-type')) headers.set('content-type', 'text/plain;charset=UTF-8')
    return body
  }
  if (body instanceof Uint8Array) return body
  if (body instanceof ReadableStream) return body
  // Forms, blobs, buffers: the platform knows their bytes and their content type.
  const encoded = new Response(body)
  const type = encoded.headers.get('content-type')
  if (type !== null && !headers.has('content-type')) headers.set('content-type', type)
  return encoded.bytes()
}
