import { once } from 'node:events'
import { constants, createSecureServer, type ServerHttp2Stream } from 'node:http2'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { inspect } from 'node:util'
import { isMillraceError, MillraceError, type WirePhase } from '@millrace/core'
import { createCertificate } from '@millrace/testkit'
import { Agent, buildConnector, Client, errors } from 'undici'
import { describe, expect, test } from 'vitest'
import { wireError } from '../src/wire-error.ts'

function systemError(code: string, syscall: string = 'connect'): Error {
  return Object.assign(new Error(`${syscall} ${code}`), { code, syscall })
}

function networkError(error: unknown, phase: WirePhase): MillraceError<'network'> {
  const told = wireError(error, phase)
  if (!isMillraceError(told, 'network')) throw told
  return told
}

describe('before a connection stands', () => {
  test.each<[string, WirePhase, boolean, string]>([
    ['ENOTFOUND', 'dns', false, 'no host has this name'],
    ['EAI_AGAIN', 'dns', true, 'name server'],
    ['EAI_FAIL', 'dns', true, 'name server'],
    ['ECONNREFUSED', 'connect', true, 'nobody listens'],
    ['EHOSTUNREACH', 'connect', true, 'no route'],
    ['ENETUNREACH', 'connect', true, 'no route'],
    ['EADDRNOTAVAIL', 'connect', true, 'no local address'],
    ['EMFILE', 'connect', true, 'ulimit -n'],
    ['ENFILE', 'connect', true, 'ulimit -n'],
    ['EACCES', 'connect', false, 'not allowed'],
    ['ETIMEDOUT', 'connect', true, 'did not answer'],
    ['UND_ERR_CONNECT_TIMEOUT', 'connect', true, 'did not answer'],
    ['ECONNRESET', 'connect', true, 'could not be opened'],
    ['constructor', 'connect', true, 'could not be opened']
  ])('%s is told as %s, retryable: %s', (code, phase, retryable, says) => {
    const error = networkError(systemError(code), 'connect')
    expect(error.details).toEqual({ phase, errno: code })
    expect(error.retryable).toBe(retryable)
    expect(error.message).toContain(says)
    expect(error.message).toContain(`(${code})`)
  })

  test.each<[string, boolean, string]>([
    ['DEPTH_ZERO_SELF_SIGNED_CERT', false, 'NODE_EXTRA_CA_CERTS'],
    ['SELF_SIGNED_CERT_IN_CHAIN', false, 'NODE_EXTRA_CA_CERTS'],
    ['UNABLE_TO_GET_ISSUER_CERT_LOCALLY', false, 'NODE_EXTRA_CA_CERTS'],
    ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', false, 'NODE_EXTRA_CA_CERTS'],
    ['CERT_HAS_EXPIRED', false, 'not valid today'],
    ['CERT_NOT_YET_VALID', false, 'not valid today'],
    ['ERR_TLS_CERT_ALTNAME_INVALID', false, 'another host name'],
    ['CERT_REVOKED', false, 'the TLS handshake failed'],
    ['INVALID_PURPOSE', false, 'the TLS handshake failed'],
    ['EPROTO', false, 'does not speak TLS'],
    ['ERR_SSL_WRONG_VERSION_NUMBER', false, 'does not speak TLS'],
    ['ERR_SSL_PACKET_LENGTH_TOO_LONG', false, 'does not speak TLS'],
    ['ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE', false, 'was refused'],
    ['ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL', false, 'was refused'],
    ['ERR_SSL_TLSV1_ALERT_INTERNAL_ERROR', false, 'the TLS handshake failed'],
    ['ECONNRESET', true, 'broke in the TLS handshake'],
    ['EPIPE', true, 'broke in the TLS handshake'],
    ['ETIMEDOUT', true, 'broke in the TLS handshake']
  ])('%s in the handshake, retryable: %s', (code, retryable, says) => {
    const error = networkError(systemError(code), 'tls')
    expect(error.details).toEqual({ phase: 'tls', errno: code })
    expect(error.retryable).toBe(retryable)
    expect(error.message).toContain(says)
  })

  test('of several addresses, the one that tells most is named', () => {
    const noIPv6 = new AggregateError([systemError('ENETUNREACH'), systemError('ECONNREFUSED')])
    expect(networkError(Object.assign(noIPv6, { code: 'ENETUNREACH' }), 'connect').details.errno).toBe('ECONNREFUSED')
    const none = new AggregateError([systemError('ENETUNREACH'), systemError('EHOSTUNREACH')])
    expect(networkError(none, 'connect').details.errno).toBe('ENETUNREACH')
    expect(networkError(new AggregateError([]), 'connect').details).toEqual({ phase: 'connect' })
  })

  test('the way to a proxy is told as such', () => {
    expect(wireError(systemError('ECONNREFUSED'), 'connect', {}, 'proxy').message).toMatch(/^on the way to the proxy: nobody/)
  })
})

describe('on a connection that stands', () => {
  test.each(['send', 'headers', 'body'] as const)('nothing in the phase %s is told as a connection that never stood', (phase) => {
    // A cut line is EHOSTUNREACH too: told as `connect`, the request would be sent again as if nothing had been.
    for (const code of ['EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT', 'ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET', 'EPROTO']) {
      const error = networkError(systemError(code, 'read'), phase)
      expect(error.details).toEqual({ phase, errno: code })
      expect(error.retryable).toBe(true)
    }
  })

  test('a TLS 1.3 server that misses a client certificate says so late, and again the next time', () => {
    const error = networkError(systemError('ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED', 'read'), 'headers')
    expect(error).toMatchObject({ retryable: false, details: { phase: 'tls' } })
    expect(error.message).toContain('client certificate')
  })

  test('what the caller wrote wrong is an invalid request', () => {
    for (const error of [
      new errors.InvalidArgumentError('x'),
      new errors.NotSupportedError('x'),
      new errors.RequestContentLengthMismatchError()
    ]) {
      expect(wireError(error, 'send')).toMatchObject({ code: 'invalid-request', retryable: false, details: { path: 'headers' } })
    }
  })

  test('a closed client is a closed transport', () => {
    expect(wireError(new errors.ClientDestroyedError(), 'send').code).toBe('closed')
    expect(wireError(new errors.ClientClosedError(), 'send').code).toBe('closed')
  })
})

test('what is not an error at all is a broken connection without a name', () => {
  for (const thrown of [undefined, null, 'text', { code: 'ENOTFOUND' }]) {
    expect(networkError(thrown, 'headers').details).toEqual({ phase: 'headers' })
  }
})

test('one error that reaches several exchanges is a copy for each, with its own context', () => {
  const shared = new MillraceError('network', 'down', {
    details: { phase: 'tls', errno: 'X' },
    retryable: false,
    cause: systemError('X')
  })
  const first = wireError(shared, 'connect', { attempt: 1 })
  const second = wireError(shared, 'connect', { attempt: 2 })
  expect([first.context, second.context, shared.context]).toEqual([{ attempt: 1 }, { attempt: 2 }, {}])
  expect(first).not.toBe(shared)
  expect(first).toMatchObject({ code: 'network', message: 'down', retryable: false, details: { phase: 'tls', errno: 'X' } })
  expect((first.cause as Error).message).toBe('connect X')
})

test('no text of undici or of TLS is told, for it may hold an address or a header', () => {
  const secret = 'canary-secret'
  const thrown = [
    new errors.InvalidArgumentError(`invalid x-key header ${secret}`),
    new errors.SocketError(secret),
    new errors.HTTPParserError(secret),
    Object.assign(new Error(secret), { code: 'ERR_TLS_CERT_ALTNAME_INVALID', host: secret, cert: { subject: secret } }),
    new AggregateError([new Error(secret)], secret)
  ]
  for (const error of thrown) {
    for (const phase of ['connect', 'tls', 'headers', 'body'] as const) {
      expect(inspect(wireError(error, phase), { depth: 9, showHidden: true })).not.toContain(secret)
    }
  }
})

interface Ended {
  readonly phase: WirePhase
  readonly error: unknown
}

/** Sends one request through undici and gives what it makes of a bad answer. */
async function exchange(dispatcher: Agent | Client, origin: string): Promise<Ended> {
  let phase: WirePhase = 'connect'
  try {
    return await new Promise((resolve, reject) => {
      dispatcher.dispatch(
        { origin, path: '/', method: 'POST', body: '{}' },
        {
          onRequestStart: () => void (phase = 'headers'),
          onResponseStart: () => void (phase = 'body'),
          onResponseData() {},
          onResponseEnd: () => reject(new Error('it ended well')),
          onResponseError: (_, error) => resolve({ phase, error })
        }
      )
    })
  } finally {
    await dispatcher.destroy()
  }
}

async function failHttp1(answer: (socket: Socket) => void): Promise<MillraceError> {
  const server = createServer((socket) => void socket.on('error', () => {}).once('data', () => answer(socket)))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const { error, phase } = await exchange(new Client(origin, { allowH2: false }), origin)
  server.close()
  return wireError(error, phase)
}

const head = 'HTTP/1.1 200 OK\r\n'
const malformed = { code: 'protocol', details: { reason: 'malformed' } }

describe('a bad answer as undici tells it', () => {
  test.each<[string, string, object]>([
    ['nothing at all', '', { code: 'network', retryable: true, details: { phase: 'headers' } }],
    ['half a head', `${head}content-le`, { code: 'network', retryable: true, details: { phase: 'headers' } }],
    ['a short body', `${head}content-length: 10\r\n\r\nabc`, { code: 'network', retryable: true, details: { phase: 'body' } }],
    ['a cut chunk', `${head}transfer-encoding: chunked\r\n\r\n5\r\nabc`, { code: 'network', details: { phase: 'body' } }],
    ['no last chunk', `${head}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n`, { code: 'network', details: { phase: 'body' } }],
    ['a bad chunk', `${head}transfer-encoding: chunked\r\n\r\nzz\r\nabc`, { ...malformed, retryable: true }],
    ['two lengths', `${head}content-length: 2\r\ncontent-length: 3\r\n\r\nabc`, { ...malformed, retryable: true }],
    ['another protocol', 'SSH-2.0-OpenSSH_9\r\n', { ...malformed, retryable: false }],
    ['a head without end', `${head}x: ${'a'.repeat(40_000)}\r\n\r\n`, { code: 'protocol', details: { reason: 'too-large' } }]
  ])('%s', async (_, bytes, expected) => {
    expect(await failHttp1((socket) => socket.end(bytes))).toMatchObject(expected)
  })

  test('a reset', async () => {
    const error = await failHttp1((socket) => socket.resetAndDestroy())
    expect(error).toMatchObject({ retryable: true, details: { phase: 'headers', errno: 'ECONNRESET' } })
  })

  test.each<[string, (stream: ServerHttp2Stream) => void, object]>([
    ['a refused stream', (stream) => stream.close(constants.NGHTTP2_REFUSED_STREAM), { errno: 'REFUSED_STREAM' }],
    ['a stream reset', (stream) => stream.close(constants.NGHTTP2_INTERNAL_ERROR), { errno: 'INTERNAL_ERROR' }],
    ['too much asked', (stream) => stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM), { errno: 'ENHANCE_YOUR_CALM' }],
    ['a GOAWAY with an error', (stream) => stream.session?.goaway(constants.NGHTTP2_INTERNAL_ERROR), { errno: 'INTERNAL_ERROR' }],
    ['a session that is gone', (stream) => stream.session?.destroy(), { errno: 'UND_ERR_SOCKET' }]
  ])('%s over HTTP/2', async (_, answer, details) => {
    const certificate = createCertificate()
    const server = createSecureServer(certificate)
    server.on('session', (session) => session.on('error', () => {}))
    server.on('stream', (stream) => {
      stream.on('error', () => {}).resume()
      stream.once('end', () => answer(stream))
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const connect = buildConnector({ ca: certificate.cert, allowH2: true, timeout: 0 })
    const origin = `https://127.0.0.1:${(server.address() as AddressInfo).port}`
    const { error, phase } = await exchange(new Agent({ connect, connections: 1 }), origin)
    expect(wireError(error, phase)).toMatchObject({ code: 'network', retryable: true, details: { phase: 'headers', ...details } })
    server.close()
  })
})
