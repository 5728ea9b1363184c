import { type ErrorContext, isMillraceError, MillraceError, type WirePhase } from '@millrace/core'

/**
 * What undici, TLS or the system threw, as one of ours: what happened, and where there is one, the cure. Judged by its code
 * and name only, for its text may hold an address or a header.
 */
export function wireError(
  error: unknown,
  phase: WirePhase,
  context: ErrorContext = {},
  peer: 'server' | 'proxy' = 'server'
): MillraceError {
  if (isMillraceError(error)) return copyOf(error, context)
  const code = codeOf(error)
  const init = { context, cause: error }
  if (code === 'UND_ERR_INVALID_ARG' || code === 'UND_ERR_NOT_SUPPORTED') {
    return new MillraceError('invalid-request', 'the method, path or a header of the request is not allowed in HTTP', {
      ...init,
      details: { path: 'headers' }
    })
  }
  if (code === 'UND_ERR_REQ_CONTENT_LENGTH_MISMATCH') {
    return new MillraceError('invalid-request', 'the content-length header is not the length of the body: leave it out', {
      ...init,
      details: { path: 'headers' }
    })
  }
  if (code === 'UND_ERR_DESTROYED' || code === 'UND_ERR_CLOSED') {
    return new MillraceError('closed', 'the transport is closed', { ...init, details: {} })
  }
  if (code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE' || code === 'UND_ERR_HEADERS_OVERFLOW' || code === 'HPE_HEADER_OVERFLOW') {
    return new MillraceError('protocol', 'the response is larger than allowed', { ...init, details: { reason: 'too-large' } })
  }
  if (code === 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH') {
    return new MillraceError('protocol', 'the response is not as long as its content-length says', {
      ...init,
      details: { reason: 'malformed' },
      retryable: true
    })
  }
  // The parser's error has no code where its reason is one the parser gives in words.
  if (code?.startsWith('HPE_') === true || (error instanceof Error && error.name === 'HTTPParserError')) {
    const framing = phase === 'body'
    return new MillraceError('protocol', framing ? 'the response body is badly framed' : 'the response is not HTTP', {
      ...init,
      details: { reason: 'malformed' },
      // A broken body may come whole the next time; whoever does not speak HTTP will not learn it.
      retryable: framing
    })
  }
  // undici's words for a 100 nobody asked for, a 101, and a status that is none: it has closed the socket.
  if (code === 'ERR_ASSERTION' || (error instanceof Error && error.message === 'bad response')) {
    return new MillraceError('protocol', 'the response has a status that cannot be taken, such as a 100 or 101 not asked for', {
      ...init,
      details: { reason: 'malformed' }
    })
  }
  const { at, says, cure, retryable } = read(code, phase)
  const errno = http2Name(error, code) ?? code
  const named = errno === undefined ? says : `${says} (${errno})`
  const told = cure === undefined ? named : `${named}: ${cure}`
  return new MillraceError('network', peer === 'proxy' ? `on the way to the proxy: ${told}` : told, {
    ...init,
    details: { phase: at, ...(errno === undefined ? {} : { errno }) },
    retryable
  })
}

interface Reading {
  readonly at: WirePhase
  readonly says: string
  readonly cure?: string | undefined
  readonly retryable: boolean
}

function read(code: string | undefined, phase: WirePhase): Reading {
  // Only where no connection stands yet: on one that does, EHOSTUNREACH is a cut line behind a request that may have been
  // answered, and `connect` would say that nothing was sent.
  const unopened = phase === 'dns' || phase === 'connect' ? unconnected.get(code ?? '') : undefined
  if (unopened !== undefined) return unopened
  if (code !== undefined && isOfTls(code, phase)) return ofTls.find(({ codes }) => codes.test(code)) ?? otherTls
  if (code === 'ERR_HTTP2_STREAM_ERROR' || code === 'ERR_HTTP2_SESSION_ERROR') {
    return { at: phase, says: 'the server broke off the HTTP/2 stream', retryable: true }
  }
  return { at: phase, says: said[phase], retryable: true }
}

const said: Readonly<Record<WirePhase, string>> = {
  dns: 'the host name could not be resolved',
  connect: 'the connection could not be opened',
  tls: 'the connection broke in the TLS handshake',
  send: 'the connection broke while the request was sent',
  headers: 'the connection broke before the response',
  body: 'the connection broke within the response'
}

const noSuchHost: Reading = { at: 'dns', says: 'no host has this name', cure: 'check the host in the URL', retryable: false }
const noResolver: Reading = {
  at: 'dns',
  says: 'the name server gave no answer',
  cure: 'check the network and the resolver of this machine',
  retryable: true
}
const noRoute: Reading = {
  at: 'connect',
  says: 'no route leads to the host',
  cure: 'check the network, a VPN, or whether IPv6 works here',
  retryable: true
}
const noDescriptor: Reading = {
  at: 'connect',
  says: 'no file descriptor is left for a socket',
  cure: 'raise the limit of open files (`ulimit -n`) or lower maxConnections',
  retryable: true
}
const noAnswer: Reading = {
  at: 'connect',
  says: 'the host did not answer',
  cure: 'check the address, and whether a firewall stands between',
  retryable: true
}
const notAllowed: Reading = {
  at: 'connect',
  says: 'this process is not allowed to open the connection',
  cure: 'check the firewall or sandbox it runs in',
  retryable: false
}

const unconnected: ReadonlyMap<string, Reading> = new Map(
  Object.entries({
    ENOTFOUND: noSuchHost,
    ENODATA: noSuchHost,
    EAI_NODATA: noSuchHost,
    EAI_AGAIN: noResolver,
    EAI_FAIL: noResolver,
    ESERVFAIL: noResolver,
    ECONNREFUSED: {
      at: 'connect',
      says: 'nobody listens at this host and port',
      cure: 'check the port, and whether the server is up',
      retryable: true
    },
    EHOSTUNREACH: noRoute,
    ENETUNREACH: noRoute,
    ENETDOWN: noRoute,
    EADDRNOTAVAIL: {
      at: 'connect',
      says: 'this machine has no local address or port for the connection',
      cure: 'check whether IPv6 works here, or keep fewer connections',
      retryable: true
    },
    ETIMEDOUT: noAnswer,
    // undici's name for the same, where several addresses were tried; its own timer is off.
    UND_ERR_CONNECT_TIMEOUT: noAnswer,
    EMFILE: noDescriptor,
    ENFILE: noDescriptor,
    EACCES: notAllowed,
    EPERM: notAllowed
  } satisfies Record<string, Reading>)
)

/** In the handshake, and behind it where a TLS 1.3 server asks for the client's certificate late. */
function isOfTls(code: string, phase: WirePhase): boolean {
  if (phase === 'connect' || phase === 'tls') return tlsCode.test(code)
  return code.startsWith('ERR_SSL_') && code.includes('CERTIFICATE')
}

const tlsCode = /^EPROTO$|^ERR_(?:SSL|TLS)_|CERT|UNABLE_TO_|SELF_SIGNED|INVALID_(?:CA|PURPOSE)|HOSTNAME_MISMATCH|^CRL_/

// None of these is another at the next try.
const ofTls: readonly (Reading & { readonly codes: RegExp })[] = [
  {
    codes: /SELF_SIGNED|UNABLE_TO_(?:GET_ISSUER|VERIFY)|CERT_UNTRUSTED|INVALID_CA/,
    says: 'nobody this process trusts has signed the certificate',
    cure: 'if it is right, give the PEM text of its authority as `ca`, or its file in NODE_EXTRA_CA_CERTS'
  },
  {
    codes: /HAS_EXPIRED|NOT_YET_VALID/,
    says: 'the certificate is not valid today',
    cure: 'it must be renewed, or the clock of this machine is wrong'
  },
  {
    codes: /ALTNAME|HOSTNAME_MISMATCH/,
    says: 'the certificate belongs to another host name',
    cure: 'check the host in the URL'
  },
  {
    codes: /^EPROTO$|WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG|HTTP_REQUEST/,
    says: 'what answers does not speak TLS',
    cure: 'check the port, or write http:// where that is meant'
  },
  {
    codes: /CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE|NO_APPLICATION_PROTOCOL|PROTOCOL_VERSION/,
    says: 'the TLS handshake was refused',
    cure: 'the peer wants a client certificate, another protocol or another cipher'
  }
].map((reading) => ({ ...reading, at: 'tls', retryable: false }))

const otherTls: Reading = { at: 'tls', says: 'the TLS handshake failed', retryable: false }

/**
 * The name of an HTTP/2 error code: REFUSED_STREAM means that nothing of the request was processed, so that it may be sent
 * again at once. On errors of the socket undici sets a code too, which says nothing.
 */
function http2Name(error: unknown, code: string | undefined): string | undefined {
  if (code?.startsWith('ERR_HTTP2_') !== true) return undefined
  const { http2ErrorCode } = error as { http2ErrorCode?: unknown }
  return typeof http2ErrorCode === 'number' ? http2Names[http2ErrorCode] : undefined
}

/** RFC 9113, section 7, by number. */
const http2Names: readonly string[] = [
  'NO_ERROR',
  'PROTOCOL_ERROR',
  'INTERNAL_ERROR',
  'FLOW_CONTROL_ERROR',
  'SETTINGS_TIMEOUT',
  'STREAM_CLOSED',
  'FRAME_SIZE_ERROR',
  'REFUSED_STREAM',
  'CANCEL',
  'COMPRESSION_ERROR',
  'CONNECT_ERROR',
  'ENHANCE_YOUR_CALM',
  'INADEQUATE_SECURITY',
  'HTTP_1_1_REQUIRED'
]

/**
 * The system's short name of an error. Of several addresses that failed, the one that tells most: a machine without IPv6
 * has no route to the first, which is not the reason.
 */
function codeOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  if (error instanceof AggregateError) {
    const codes = error.errors.map(codeOf).filter((code) => code !== undefined)
    const telling = codes.find((code) => unconnected.get(code) !== noRoute && code !== 'EADDRNOTAVAIL')
    if (codes.length > 0) return telling ?? codes[0]
  }
  const { code } = error as { code?: unknown }
  return typeof code === 'string' ? code : undefined
}

/** One connection may fail for several exchanges at once, and each adds its own context: every one gets its own. */
function copyOf(error: MillraceError, context: ErrorContext): MillraceError {
  const { code, message, details, cause, retryable, partial, providerMessage } = error
  return new MillraceError(code, message, {
    details,
    context: { ...context, ...error.context },
    cause,
    retryable,
    partial,
    providerMessage
  })
}
