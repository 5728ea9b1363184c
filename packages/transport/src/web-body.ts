import { abortable, type HttpRequest } from '@millrace/core'
import { StreamedBody, streamedBody } from './streamed-body.ts'

/** Bodies up to here are sent from memory, and can be sent again; longer blobs, forms and requests are streamed, once. */
const maxRepeatableBytes = 16 * 1024 * 1024

/**
 * A body as bytes where that is possible, so that it can be sent again. Its content type and length go into `headers` where
 * they say none.
 *
 * @throws {TypeError} for what is no body
 */
export async function bodyOf(
  body: Exclude<RequestInit['body'], string | null | undefined>,
  headers: Record<string, string>,
  signal: AbortSignal | undefined
): Promise<HttpRequest['body']> {
  if (typeof body !== 'object') throw badBody()
  if (ArrayBuffer.isView(body)) return new Uint8Array(body.buffer, body.byteOffset, body.byteLength)
  if (body instanceof ArrayBuffer) return new Uint8Array(body)
  // Streams are the caller's own, with the length and type he says.
  if (Symbol.asyncIterator in body) return streamedBody(body as AsyncIterable<Uint8Array>)
  if (!(body instanceof Blob || body instanceof FormData || body instanceof URLSearchParams)) throw badBody()
  // The platform knows their bytes and their content type.
  const encoded = new Response(body)
  const type = encoded.headers.get('content-type')
  if (type !== null) headers['content-type'] ??= type
  if (blobBytes(body) <= maxRepeatableBytes) return abortable(encoded.bytes(), signal)
  headers['content-length'] ??= String(await lengthOf(body))
  return new StreamedBody((encoded.body as ReadableStream<Uint8Array>).getReader())
}

function badBody(): TypeError {
  return new TypeError(
    'body must be text, bytes, a Blob, FormData, URLSearchParams or a stream: give an object as JSON.stringify(it)'
  )
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

/**
 * The body of a `Request`, where any text is a stream: one that is not too long is read, so that it can be sent again.
 *
 * @throws {TypeError} when the stream fails; `signal.reason`
 */
export async function readAhead(
  stream: ReadableStream<Uint8Array>,
  signal: AbortSignal | undefined
): Promise<Uint8Array | StreamedBody> {
  const reader = stream.getReader()
  const held: Uint8Array[] = []
  let bytes = 0
  while (bytes <= maxRepeatableBytes) {
    const { done, value } = await abortable(reader.read(), signal).catch((error: unknown) => {
      new StreamedBody(reader).cancel(error)
      throw signal?.aborted === true ? error : new TypeError('the body could not be sent: its stream failed', { cause: error })
    })
    if (done) return Buffer.concat(held, bytes)
    bytes += value.byteLength
    held.push(value)
  }
  return new StreamedBody(reader, held)
}
