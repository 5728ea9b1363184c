import { onAbort } from '@millrace/core'
import { tokensOfMedia } from './estimate.ts'

/** A request's body that is no text yet, and about how many tokens it has. */
export interface Measured {
  readonly text: string | undefined
  readonly tokens: number
}

/** As much of a request's body as limits look at; `undefined` where there is none. */
export type BodySeen = string | Uint8Array | Measured | undefined

/**
 * The body of what a `fetch` is called with; a promise only where it has to be read. A `Request` that says it is text is read
 * through a clone, up to 8 MiB, so that it goes out as it was.
 */
export function fetchBody(
  input: string | URL | Request,
  init: RequestInit | undefined,
  signal: AbortSignal | undefined
): BodySeen | Promise<BodySeen> {
  const request = requestIn(input)
  const given = init?.body
  if (given !== undefined && given !== null) return bodySeen(given, () => new Headers(init?.headers ?? request?.headers))
  // One that was read already is refused by the fetch itself.
  if (request === undefined || request.body === null || request.bodyUsed) return undefined
  // Without a type it is bytes or a stream, which may be long or slow.
  const type = request.headers.get('content-type')
  return type !== null && isText(type) ? cloned(request, signal) : measured(request.headers)
}

/** One of another realm, or of a polyfill, is one as well. */
export function requestIn(input: string | URL | Request): Request | undefined {
  return typeof input === 'object' && 'url' in input && 'headers' in input ? input : undefined
}

/** A body that stands in the call. */
export function bodySeen(body: unknown, headers: () => Headers): BodySeen | Promise<BodySeen> {
  if (body === undefined || body === null) return undefined
  if (typeof body === 'string' || body instanceof Uint8Array) return body
  if (body instanceof ArrayBuffer) return new Uint8Array(body)
  if (ArrayBuffer.isView(body)) return new Uint8Array(body.buffer, body.byteOffset, body.byteLength)
  if (body instanceof URLSearchParams) return body.toString()
  if (body instanceof FormData) return formSeen(body)
  if (!(body instanceof Blob)) return measured(headers())
  // Of a file that is gone the fetch itself tells.
  return isText(body.type) ? body.text().catch(() => media) : media
}

async function cloned(request: Request, signal: AbortSignal | undefined): Promise<BodySeen> {
  if (Number(request.headers.get('content-length') ?? 0) > maxRead) return measured(request.headers)
  const unread = Promise.withResolvers<undefined>()
  const off = onAbort(signal, () => unread.resolve(undefined))
  try {
    return (await Promise.race([textOf(request.clone()), unread.promise])) ?? measured(request.headers)
  } catch {
    // Nothing is lost: the fetch reads the same stream and tells why it broke.
    return measured(request.headers)
  } finally {
    off()
  }
}

/** What is not read is not held: a branch that is left lets the other run alone. */
async function textOf({ body }: Request): Promise<BodySeen> {
  const reader = (body as ReadableStream<Uint8Array>).getReader()
  const decoder = new TextDecoder()
  let text = ''
  for (let length = 0; length <= maxRead; ) {
    const { done, value } = await reader.read()
    if (done) return text + decoder.decode()
    length += value.byteLength
    text += decoder.decode(value, { stream: true })
  }
  // It ends when the fetch has read the other branch.
  reader.cancel().catch(() => {})
  return text
}

/** Its fields as if they stood in JSON; a file counts as an image does. */
function formSeen(form: FormData): Measured {
  const fields: Record<string, string> = {}
  let tokens = 0
  for (const [name, value] of form) {
    if (typeof value === 'string') fields[name] = value
    else tokens += tokensOfMedia
  }
  const text = JSON.stringify(fields)
  return { text, tokens: tokens + Math.ceil(text.length / 4) }
}

/** What can only be read once: by its length, and where that is not told by the answer alone. */
function measured(headers: Headers): Measured {
  if (!isText(headers.get('content-type'))) return media
  const length = /^\d{1,12}$/.exec(headers.get('content-length') ?? '')?.[0] ?? 0
  return { text: undefined, tokens: Math.ceil(Number(length) / 4) }
}

/** More of a request than any model takes in. */
const maxRead = 8 * 1024 * 1024
const media: Measured = { text: undefined, tokens: tokensOfMedia }

/** What does not say what it is may be text. */
function isText(type: string | null): boolean {
  return type === null || type === '' || /^text\/|[/+]json\b|urlencoded/i.test(type)
}
