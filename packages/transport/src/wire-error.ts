import { type ErrorContext, isMillraceError, MillraceError, type WirePhase } from '@millrace/core'

/** What undici or the system threw, as one of ours; by its code only, for its text may hold an address or a header. */
export function wireError(error: unknown, phase: WirePhase, context: ErrorContext = {}): MillraceError {
  if (isMillraceError(error)) return error
  const code = codeOf(error)
  if (code === 'UND_ERR_INVALID_ARG' || code === 'UND_ERR_NOT_SUPPORTED') {
    return new MillraceError('invalid-request', 'the method, path or a header of the request is not allowed in HTTP', {
      details: { path: 'headers' },
      context,
      cause: error
    })
  }
  if (code === 'UND_ERR_DESTROYED' || code === 'UND_ERR_CLOSED') {
    return new MillraceError('closed', 'the transport is closed', { details: {}, context, cause: error })
  }
  if (code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE' || code === 'UND_ERR_HEADERS_OVERFLOW' || code === 'HPE_HEADER_OVERFLOW') {
    return new MillraceError('protocol', 'the response is larger than allowed', {
      details: { reason: 'too-large' },
      context,
      cause: error
    })
  }
  if (code?.startsWith('HPE_') === true) {
    return new MillraceError('protocol', 'the response is not HTTP', { details: { reason: 'malformed' }, context, cause: error })
  }
  const at = phaseOf(code) ?? phase
  // A name that does not exist and a certificate that does not match are the same at the next try.
  const retryable = code !== 'ENOTFOUND' && !(at === 'tls' && code !== undefined && certificate.test(code))
  return new MillraceError('network', `${said[at]}${code === undefined ? '' : ` (${code})`}`, {
    details: { phase: at, ...(code === undefined ? {} : { errno: code }) },
    context,
    cause: error,
    retryable
  })
}

const said: Readonly<Record<WirePhase, string>> = {
  dns: 'the host name could not be resolved',
  connect: 'the connection could not be opened',
  tls: 'the TLS handshake failed',
  send: 'the connection broke while the request was sent',
  headers: 'the connection broke before the response',
  body: 'the connection broke within the response'
}

const certificate = /CERT|UNABLE_TO_|SELF_SIGNED|ALTNAME/
const ofDns: ReadonlySet<string> = new Set(['ENOTFOUND', 'EAI_AGAIN', 'EAI_FAIL', 'EAI_NODATA', 'ESERVFAIL'])
const ofConnect: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EADDRNOTAVAIL',
  'EMFILE',
  'ENOENT'
])

function phaseOf(code: string | undefined): WirePhase | undefined {
  if (code === undefined) return undefined
  if (ofDns.has(code)) return 'dns'
  if (ofConnect.has(code)) return 'connect'
  if (certificate.test(code) || code.startsWith('ERR_SSL') || code.startsWith('ERR_TLS')) return 'tls'
  return undefined
}

/** The system's short name of an error; an AggregateError of several addresses gives that of its first. */
function codeOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  const { code } = error as { code?: unknown }
  if (typeof code === 'string') return code
  return error instanceof AggregateError ? codeOf(error.errors[0]) : undefined
}
