import { type HttpRequest, MillraceError } from '@millrace/core'
import { checkTimeouts } from './transport-options.ts'

/**
 * Refuses what would be sent wrong or not at all, before a place in the pool is taken for it. It quotes no value.
 *
 * @throws {MillraceError} `invalid-request`; `details.path` names the field
 * @throws {TypeError} for `timeouts` that are none
 */
export function checkHttpRequest(request: HttpRequest): void {
  if (typeof request !== 'object' || request === null) throw refused('', 'a request is an object: { method, url, headers, body }')
  const { method, url, headers, body, signal, timeouts } = request
  if (!isMethod(method)) throw refused('method', 'must be a method of HTTP in capitals, such as POST')
  if (!isBody(body))
    throw refused('body', 'must be text, bytes or an async iterable of bytes: give an object as JSON.stringify(it)')
  if (typeof url !== 'string') throw refused('url', 'must be text: give the href of a URL')
  if (signal !== undefined && (typeof signal?.aborted !== 'boolean' || typeof signal.addEventListener !== 'function')) {
    throw refused('signal', 'must be an AbortSignal: the `signal` of an AbortController')
  }
  checkHeaders(headers)
  if (timeouts !== undefined) checkTimeouts(timeouts)
}

/** In capitals, for methods tell them apart (RFC 9110, section 9.1); these three are not for a client like this. */
function isMethod(method: unknown): boolean {
  return typeof method === 'string' && /^[A-Z][A-Z-]*$/.test(method) && !['CONNECT', 'TRACE', 'TRACK'].includes(method)
}

function isBody(body: unknown): boolean {
  if (body === undefined || typeof body === 'string') return true
  return typeof body === 'object' && body !== null && (body instanceof Uint8Array || Symbol.asyncIterator in body)
}

function checkHeaders(headers: unknown): void {
  if (typeof headers !== 'object' || headers === null || Symbol.iterator in headers) {
    throw refused('headers', 'must be a plain object of names in lower case, such as Object.fromEntries(headers)')
  }
  for (const name of Object.keys(headers)) {
    if (upperCase.test(name)) throw refused('headers', 'must have names in lower case')
    if (ofConnection.has(name)) throw refused('headers', `must not hold ${name}: it belongs to the connection`)
    if (name.startsWith('x-millrace-')) throw refused('headers', `must not hold ${name}: say it in \`timeouts\``)
    if (typeof (headers as Record<string, unknown>)[name] !== 'string') throw refused('headers', 'must have text as values')
  }
}

const upperCase = /[A-Z]/

/** Headers that say how the connection is used, or to whom it leads (RFC 9110, sections 7.2, 7.6.1 and 10.1.1; RFC 9113, 8.2.2). */
export const ofConnection: ReadonlySet<string> = new Set([
  'connection',
  'expect',
  'host',
  'http2-settings',
  'keep-alive',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade'
])

function refused(path: string, problem: string): MillraceError<'invalid-request'> {
  return new MillraceError('invalid-request', `${path} ${problem}`.trimStart(), { details: { path } })
}
