import { type HttpResponse, isMillraceError, type SSEParser } from '@millrace/core'
import { redact } from './redact.ts'

/** What a server may still send behind its last event; the socket is kept if it ends within this time. */
export const drainMs: number = 1000

/** The bytes have ended, perhaps inside an event: then it is the end that is wrong, not the JSON. */
export function takeRest(parser: SSEParser): void {
  try {
    parser.end()
  } catch (error) {
    if (!isMillraceError(error, 'protocol') || error.details.reason !== 'malformed') throw error
  }
}

/** The server's last bytes are read in the background, so that the socket can be used again. */
export function drain({ body }: HttpResponse, batches: AsyncIterator<unknown>): void {
  const timer = setTimeout(() => body.cancel(), drainMs).unref()
  const stop = (): void => clearTimeout(timer)
  const read = ({ done }: IteratorResult<unknown>): unknown => (done === true ? stop() : batches.next().then(read))
  // Nobody waits for these bytes; a socket that breaks now is simply not used again.
  batches.next().then(read).then(undefined, stop)
}

export function isStream(response: HttpResponse, asked: boolean): boolean {
  const type = contentType(response)
  if (type.includes('text/event-stream')) return true
  return asked && !type.includes('json') && !type.includes('html')
}

export function contentType({ headers }: HttpResponse): string {
  return headers['content-type']?.toLowerCase() ?? 'no content type'
}

/** A name for the support desk, and nothing else: the server chose it. */
export function requestId(response: HttpResponse | undefined, secrets: readonly string[]): string | undefined {
  const id = response?.headers['x-request-id'] ?? response?.headers['request-id'] ?? response?.headers['apim-request-id']
  return id !== undefined && /^[\w.:/-]{1,128}$/.test(id) && redact(id, secrets) === id ? id : undefined
}
