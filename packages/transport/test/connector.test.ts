import { execFile } from 'node:child_process'
import dns from 'node:dns'
import { once } from 'node:events'
import { createServer as createHttpServer, type IncomingMessage } from 'node:http'
import { createSecureServer } from 'node:http2'
import { createServer as createHttpsServer } from 'node:https'
import { type AddressInfo, connect as connectSocket, createServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer, rootCertificates, type TLSSocket } from 'node:tls'
import { inspect, promisify } from 'node:util'
import { isMillraceError, type MillraceError } from '@millrace/core'
import { createCertificate, heapAfterGc, probeLeaks } from '@millrace/testkit'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { type Connector, type ConnectorOptions, type ConnectTarget, createConnector } from '../src/connector.ts'
import { openTunnel } from '../src/proxy.ts'
import { until } from './serve.ts'

const certificate = createCertificate()
const canary = 'canary-pa:ss'
const user = 'canary-user'
const inUrl = `${user}:${encodeURIComponent(canary)}@`
const basic = `Basic ${Buffer.from(`${user}:${canary}`).toString('base64')}`

const variables = ['http_proxy', 'https_proxy', 'all_proxy', 'no_proxy']
const running: TestServer[] = []

beforeEach(() => {
  for (const name of variables) {
    vi.stubEnv(name, undefined)
    vi.stubEnv(name.toUpperCase(), undefined)
  }
})

afterEach(async () => {
  vi.unstubAllEnvs()
  vi.restoreAllMocks()
  for (const { close } of running.splice(0)) await close()
})

interface TestServer {
  readonly port: number
  readonly sockets: Set<Socket>
  accepted: number
  readonly close: () => Promise<void>
}

/** Any server on a free port, its sockets counted. */
async function start(server: Server, host: string = '127.0.0.1'): Promise<TestServer> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    entry.accepted++
    sockets.add(socket.on('error', () => {}))
    socket.once('close', () => sockets.delete(socket))
  })
  server.listen(0, host)
  await once(server, 'listening')
  const entry: TestServer = {
    port: (server.address() as AddressInfo).port,
    sockets,
    accepted: 0,
    async close() {
      if (!server.listening) return
      for (const socket of sockets) socket.destroy()
      await promisify(server.close.bind(server))()
    }
  }
  running.push(entry)
  return entry
}

/** A server that accepts, reads, and says nothing. */
function startSilent(): Promise<TestServer> {
  return start(createServer((socket) => void socket.resume()))
}

/** An origin that tells each request's headers and whether it speaks TLS. */
function startOrigin(): Promise<TestServer> {
  return start(createHttpsServer(certificate, (request, response) => response.end(JSON.stringify(request.headers))))
}

type Answer = (socket: Socket, request: IncomingMessage, head: Buffer) => void

interface ProxyServer extends TestServer {
  readonly asked: IncomingMessage[]
}

/** A forward proxy that tunnels, or answers CONNECT as told. */
async function startProxy(answer: Answer = tunnel, secure: 'plain' | 'secure' = 'plain'): Promise<ProxyServer> {
  const asked: IncomingMessage[] = []
  const forward = (request: IncomingMessage, response: { end(body: string): void }): void => {
    asked.push(request)
    response.end('forwarded')
  }
  const server = secure === 'secure' ? createHttpsServer(certificate, forward) : createHttpServer(forward)
  server.on('connect', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    asked.push(request)
    // A socket that is not read does not see the client leave.
    socket.on('error', () => {}).on('end', () => socket.end())
    if (answer !== tunnel) socket.resume()
    answer(socket, request, head)
  })
  return Object.assign(await start(server), { asked })
}

const tunnel: Answer = (socket, { url = '' }) => {
  const port = Number(/\d+$/.exec(url)?.[0])
  const upstream = connectSocket(port, '127.0.0.1', () => {
    socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
    upstream.pipe(socket).pipe(upstream)
  })
  upstream.on('error', () => {})
  // At the latest; a FIN of one side is passed on to the other by the pipes.
  upstream.on('close', () => socket.destroySoon())
  socket.on('close', () => upstream.destroy())
}

const http = (port: number, hostname: string = '127.0.0.1'): ConnectTarget => ({ protocol: 'http:', hostname, port })
const https = (port: number, hostname: string = '127.0.0.1'): ConnectTarget => ({ protocol: 'https:', hostname, port })

function connector(options: Partial<ConnectorOptions> = {}): Connector {
  return createConnector({ http2: false, ca: certificate.cert, ...options })
}

function open(from: Connector, target: ConnectTarget): Promise<Socket> {
  return new Promise((resolve, reject) => {
    from.connect(target, (error, socket) => (error === null ? resolve(socket as Socket) : reject(error)))
  })
}

async function failure(from: Connector, target: ConnectTarget): Promise<MillraceError<'network'>> {
  const error = await open(from, target).then(
    (socket) => {
      socket.destroy()
      throw new Error('it connected')
    },
    (thrown: unknown) => thrown
  )
  expectNoSecret(error)
  if (!isMillraceError(error)) throw error
  return error as MillraceError<'network'>
}

function expectNoSecret(error: unknown): void {
  for (let at = error; at instanceof Error; at = at.cause) {
    const told = `${inspect(at, { depth: 9, showHidden: true })} ${JSON.stringify(at)} ${at.stack} ${at.message}`
    for (const secret of [canary, encodeURIComponent(canary), user, basic.slice(6)]) expect(told).not.toContain(secret)
  }
}

/** What the other end answers to a request over this socket. */
async function ask(socket: Socket, path: string = '/', headers: Readonly<Record<string, string>> = {}): Promise<string> {
  const lines = Object.entries({ host: 'origin', connection: 'close', ...headers }).map(
    ([name, value]) => `${name}: ${value}\r\n`
  )
  socket.write(`GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`)
  let answer = ''
  for await (const piece of socket) answer += String(piece)
  return answer
}

describe('straight', () => {
  test('opens a socket, and never calls back before it has returned', async () => {
    const server = await start(createHttpServer((_, response) => response.end('hello')))
    let returned = false
    const { promise, resolve } = Promise.withResolvers<Socket | null>()
    connector().connect(http(server.port), (_, opened) => {
      expect(returned).toBe(true)
      resolve(opened)
    })
    returned = true
    const socket = await promise
    expect(await ask(socket as Socket)).toContain('hello')
  })

  test('localhost', async () => {
    const { address } = await dns.promises.lookup('localhost')
    const server = await start(
      createHttpServer((_, response) => response.end('hello')),
      address
    )
    expect(await ask(await open(connector(), http(server.port, 'localhost')))).toContain('hello')
  })

  // Not every machine has both in its hosts file, so the resolver's answer is given here.
  test.each([
    ['::1', ['::1', '127.0.0.1']],
    ['::1', ['127.0.0.1', '::1']],
    ['127.0.0.1', ['::1', '127.0.0.1']],
    ['127.0.0.1', ['127.0.0.1', '::1']]
  ])('a server on %s only is found where its name has the addresses %j', async (host, addresses) => {
    vi.spyOn(dns, 'lookup').mockImplementation(((_name: string, _options: object, callback: (...answer: unknown[]) => void) => {
      const answer = addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }))
      process.nextTick(callback, null, answer)
    }) as typeof dns.lookup)
    const plain = await start(
      createHttpServer((_, response) => response.end('hello')),
      host
    )
    expect(await ask(await open(connector(), http(plain.port, 'localhost')))).toContain('hello')
    const secure = await start(
      createHttpsServer(certificate, (_, response) => response.end('hello')),
      host
    )
    expect(await ask(await open(connector(), https(secure.port, 'localhost')))).toContain('hello')
  })

  test('an IPv6 address is an origin as any other', async () => {
    const server = await start(
      createHttpsServer(certificate, (_, response) => response.end('hello')),
      '::1'
    )
    expect(await ask(await open(connector(), https(server.port, '::1')))).toContain('hello')
  })

  test('many connections ask the resolver once at a time, and a second time later', async () => {
    const { address } = await dns.promises.lookup('localhost')
    const server = await start(createServer(), address)
    const lookup = vi.spyOn(dns, 'lookup')
    const from = connector()
    const sockets = await Promise.all(Array.from({ length: 50 }, () => open(from, http(server.port, 'localhost'))))
    expect(lookup).toHaveBeenCalledTimes(1)
    sockets.push(await open(from, http(server.port, 'localhost')))
    expect(lookup).toHaveBeenCalledTimes(2)
    for (const socket of sockets) socket.destroy()
  })

  test('a name whose lookup hangs does not hold up another, and can be given up', async () => {
    const { lookup } = dns
    vi.spyOn(dns, 'lookup').mockImplementation(((...parameters: Parameters<typeof dns.lookup>) => {
      if (parameters[0] !== 'slow.invalid') lookup(...parameters)
    }) as typeof dns.lookup)
    const server = await start(createServer())
    const from = connector()
    const reason = new Error('enough')
    const slow = new Promise((resolve) => from.connect(http(80, 'slow.invalid'), resolve).destroy(reason))
    const socket = await open(from, http(server.port))
    socket.destroy()
    expect(await slow).toBe(reason)
  })

  test('tells a name that does not exist, and a port nobody listens at', async () => {
    const unknown = await failure(connector(), https(443, 'no-such-host.invalid'))
    expect(unknown.details.phase).toBe('dns')
    const closed = await start(createServer())
    await closed.close()
    for (const target of [http(closed.port), https(closed.port)]) {
      const refused = await failure(connector(), target)
      expect(refused).toMatchObject({ code: 'network', retryable: true, details: { phase: 'connect', errno: 'ECONNREFUSED' } })
      expect(refused.message).toContain('nobody listens')
    }
  })

  test('tells a process that has no file descriptor left', async () => {
    const program = `
      import { openSync } from 'node:fs'
      import { createConnector } from ${JSON.stringify(new URL('../src/connector.ts', import.meta.url).href)}
      const connector = createConnector({ http2: false, proxy: false })
      const first = await new Promise((resolve) => connector.connect({ protocol: 'http:', hostname: '127.0.0.1', port: 1 }, resolve))
      try { for (;;) openSync('/dev/null') } catch {}
      const error = await new Promise((resolve) => connector.connect({ protocol: 'http:', hostname: '127.0.0.1', port: 1 }, resolve))
      console.log(JSON.stringify([first, error]))`
    const { stdout } = await promisify(execFile)('sh', [
      '-c',
      'ulimit -n 100; exec "$0" --conditions=@millrace/source --input-type=module -e "$1"',
      process.execPath,
      program
    ])
    const [refused, error] = JSON.parse(stdout) as MillraceError<'network'>[]
    expect(refused?.details.errno).toBe('ECONNREFUSED')
    expect(error).toMatchObject({ retryable: true, details: { phase: 'connect', errno: 'EMFILE' } })
    expect(error?.message).toContain('ulimit -n')
  })
})

describe('TLS', () => {
  const expired = createCertificate({ state: 'expired' })
  const elsewhere = createCertificate({ names: ['elsewhere.example'] })

  test('trusts what it is told to, beside what Node trusts', async () => {
    const origin = await startOrigin()
    for (const ca of [
      certificate.cert,
      [rootCertificates[0] as string, certificate.cert],
      `${expired.cert}\n${certificate.cert}`
    ]) {
      const socket = (await open(connector({ ca }), https(origin.port, 'localhost'))) as TLSSocket
      expect(socket.authorized).toBe(true)
      socket.destroy()
    }
  })

  test.each([
    ['nobody vouches for', certificate, [], 'NODE_EXTRA_CA_CERTS'],
    ['has expired', expired, [expired.cert], 'not valid today'],
    ['names another host', elsewhere, [elsewhere.cert], 'another host name']
  ])('refuses a certificate that %s, and does not try it again', async (_, shown, ca, says) => {
    const origin = await start(createTlsServer(shown))
    for (const unsafe of [undefined, '0']) {
      vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', unsafe)
      const error = await failure(connector({ ca }), https(origin.port))
      expect(error).toMatchObject({ code: 'network', retryable: false, details: { phase: 'tls' } })
      expect(error.message).toContain(says)
    }
    await until(() => origin.sockets.size === 0, 'the sockets are closed')
  })

  test('tells a server that does not speak TLS', async () => {
    const plain = await start(createHttpServer())
    const error = await failure(connector(), https(plain.port))
    expect(error).toMatchObject({ retryable: false, details: { phase: 'tls' } })
    expect(error.message).toContain('does not speak TLS')
  })

  test.each([
    ['resets', (socket: Socket) => void socket.once('data', () => socket.resetAndDestroy())],
    ['closes', (socket: Socket) => void socket.once('data', () => socket.end())],
    ['closes at once', (socket: Socket) => void socket.resume().end()]
  ])('a server that %s in the handshake may be tried again', async (_, answer) => {
    const server = await start(createServer(answer))
    const error = await failure(connector(), https(server.port))
    expect(error).toMatchObject({ code: 'network', retryable: true, details: { phase: 'tls' } })
    expect(error.message).toContain('broke in the TLS handshake')
    await until(() => server.sockets.size === 0, 'the socket is closed')
  })

  test('one that resets before the handshake too', async () => {
    const server = await start(createServer((socket) => socket.resetAndDestroy()))
    // The reset may outrun the news that TCP stands.
    expect(await failure(connector(), https(server.port))).toMatchObject({ code: 'network', retryable: true })
  })

  test('offers HTTP/2 only where it is asked for, and takes HTTP/1.1 where that is all there is', async () => {
    const both = await start(createSecureServer({ ...certificate, allowHTTP1: true }))
    const old = await startOrigin()
    const spoken = async (from: Connector, port: number): Promise<unknown> => {
      const socket = (await open(from, https(port))) as TLSSocket
      socket.destroy()
      return socket.alpnProtocol
    }
    expect(await spoken(connector({ http2: true }), both.port)).toBe('h2')
    expect(await spoken(connector({ http2: false }), both.port)).toBe('http/1.1')
    expect(await spoken(connector({ http2: true }), old.port)).toBe('http/1.1')
  })

  test('a thousand failing handshakes leave neither socket nor memory behind', async () => {
    const probe = probeLeaks()
    const origin = await start(createTlsServer(certificate))
    const from = connector({ ca: [] })
    const fail = async (count: number): Promise<void> => {
      for (let done = 0; done < count; done += 20) {
        await Promise.all(Array.from({ length: 20 }, () => failure(from, https(origin.port))))
      }
    }
    await fail(100)
    const before = await heapAfterGc()
    await fail(1000)
    expect(origin.accepted).toBe(1100)
    await until(() => origin.sockets.size === 0, 'the sockets are closed')
    expect((await heapAfterGc()) - before).toBeLessThan(4_000_000)
    await origin.close()
    await probe.check()
  })

  test.each([['/etc/ssl/own.pem'], [''], [Buffer.from(certificate.cert)], [[certificate.cert, 'none']]])(
    'refuses a ca that is no PEM text, and says what to write: %s',
    (ca) => {
      expect(() => createConnector({ http2: false, ca: ca as string })).toThrow(/^ca must be the PEM text/)
    }
  )

  test('refuses a ca with a broken certificate in it', () => {
    const broken = certificate.cert.replace(/^M...../m, 'AAAAAA')
    expect(() => createConnector({ http2: false, ca: broken })).toThrow(TypeError)
  })
})

describe('through a proxy', () => {
  test('tunnels to an https origin, which is verified and sees nothing of the proxy', async () => {
    const origin = await startOrigin()
    const proxy = await startProxy()
    const from = connector({ proxy: `http://${inUrl}127.0.0.1:${proxy.port}/` })
    const answer = await ask(await open(from, https(origin.port, 'localhost')), '/', { authorization: 'Bearer origin-secret' })
    expect(answer).toContain('origin-secret')
    expect(answer).not.toContain('proxy-authorization')
    const [connect] = proxy.asked
    expect(connect).toMatchObject({ method: 'CONNECT', url: `localhost:${origin.port}` })
    expect(connect?.headers).toEqual({ host: `localhost:${origin.port}`, 'proxy-authorization': basic })
    expect(from.forward(https(origin.port))).toBeUndefined()
    const error = await failure(connector({ ca: [], proxy: `http://127.0.0.1:${proxy.port}` }), https(origin.port))
    expect(error).toMatchObject({ retryable: false, details: { phase: 'tls', errno: 'DEPTH_ZERO_SELF_SIGNED_CERT' } })
    await until(() => proxy.sockets.size === 0 && origin.sockets.size === 0, 'the sockets are closed')
  })

  test('agrees on HTTP/2 through the tunnel', async () => {
    const origin = await start(createSecureServer(certificate))
    const proxy = await startProxy()
    const from = connector({ http2: true, proxy: `http://127.0.0.1:${proxy.port}` })
    const socket = (await open(from, https(origin.port))) as TLSSocket
    expect(socket.alpnProtocol).toBe('h2')
    socket.destroy()
    await until(() => proxy.sockets.size === 0, 'the socket to the proxy is closed')
  })

  test('speaks TLS to an https proxy first, and TLS within it', async () => {
    const origin = await startOrigin()
    const proxy = await startProxy(tunnel, 'secure')
    const url = `https://${inUrl}localhost:${proxy.port}`
    expect(await ask(await open(connector({ proxy: url }), https(origin.port)))).toContain('"host":"origin"')
    expect(proxy.asked[0]?.headers['proxy-authorization']).toBe(basic)
    const error = await failure(connector({ ca: [], proxy: url }), https(origin.port))
    expect(error.message).toMatch(/^on the way to the proxy: nobody this process trusts/)
    await until(() => proxy.sockets.size === 0 && origin.sockets.size === 0, 'the sockets are closed')
  })

  test.each(['plain', 'secure'] as const)('lets a %s proxy forward what goes to an http origin', async (secure) => {
    const proxy = await startProxy(tunnel, secure)
    const scheme = secure === 'secure' ? 'https' : 'http'
    const from = connector({ http2: true, proxy: `${scheme}://${inUrl}127.0.0.1:${proxy.port}` })
    const target = http(80, 'origin.invalid')
    const forward = from.forward(target)
    expect(forward?.headers).toEqual({ 'proxy-authorization': basic })
    const answer = await ask(await open(from, target), 'http://origin.invalid/x', forward?.headers)
    expect(answer).toContain('forwarded')
    expect(proxy.asked[0]).toMatchObject({ method: 'GET', url: 'http://origin.invalid/x' })
    expect(connector({ proxy: `http://127.0.0.1:${proxy.port}` }).forward(target)?.headers).toEqual({})
  })

  test.each([
    [407, false, 'percent-encoded'],
    [403, false, 'with status 403'],
    [429, true, 'with status 429'],
    [502, true, 'with status 502'],
    [302, false, 'with status 302']
  ])('tells status %i of a proxy that refuses', async (status, retryable, says) => {
    const proxy = await startProxy((socket) => {
      socket.end(`HTTP/1.1 ${status} No\r\ncontent-length: ${basic.length}\r\n\r\n${basic}`)
    })
    const error = await failure(connector({ proxy: `http://${inUrl}127.0.0.1:${proxy.port}` }), https(443, 'origin.invalid'))
    expect(error).toMatchObject({ code: 'network', retryable, details: { phase: 'connect' } })
    expect(error.message).toContain(says)
    expect(error.message).toContain(String(status))
    await until(() => proxy.sockets.size === 0, 'the socket is closed')
  })

  test.each<[string, Answer, object]>([
    ['closes', (socket) => socket.end(), { code: 'network', retryable: true }],
    ['resets', (socket) => socket.resetAndDestroy(), { code: 'network', retryable: true, details: { errno: 'ECONNRESET' } }],
    ['cuts its head', (socket) => socket.end('HTTP/1.1 200 OK\r\nx-a: 1\r\n'), { code: 'network', retryable: true }],
    ['speaks another protocol', (socket) => socket.write('SSH-2.0-x'), { code: 'protocol', details: { reason: 'malformed' } }],
    ['has no status', (socket) => socket.write('HTTP/1.1 ok\r\n\r\n'), { code: 'protocol', details: { reason: 'malformed' } }],
    [
      'hides a status in a header',
      (socket) => socket.write('HTTP/1.1 x\r\nHTTP/1.1 200 OK\r\n\r\n'),
      { code: 'protocol', details: { reason: 'malformed' } }
    ],
    [
      'sends headers without end',
      (socket) => socket.write(`HTTP/1.1 200 OK\r\nx-a: ${'a'.repeat(20_000)}`),
      { code: 'protocol', details: { reason: 'too-large' } }
    ],
    [
      'sends interim answers without end',
      (socket) => socket.write('HTTP/1.1 100 Continue\r\n\r\n'.repeat(1000)),
      { code: 'protocol', details: { reason: 'too-large' } }
    ],
    [
      'speaks before its turn behind the answer',
      (socket) => socket.write('HTTP/1.1 200 OK\r\n\r\nthis is no TLS at all'),
      { code: 'network', retryable: false, details: { phase: 'tls' } }
    ]
  ])('a proxy that %s ends the attempt and its socket', async (_, answer, expected) => {
    const proxy = await startProxy(answer)
    const error = await failure(connector({ proxy: `http://${inUrl}127.0.0.1:${proxy.port}` }), https(443, 'origin.invalid'))
    expect(error).toMatchObject(expected)
    await until(() => proxy.sockets.size === 0, 'the socket is closed')
  })

  test('takes an answer that comes byte by byte behind an interim one', async () => {
    const origin = await startOrigin()
    const proxy = await startProxy(async (socket, request, head) => {
      socket.pause()
      const write = socket.write.bind(socket)
      for (const byte of 'HTTP/1.1 103 Early\r\nx: 1\r\n\r\nHTTP/1.0 200\r\nvia: x\r\n\r') {
        write(byte)
        await new Promise(setImmediate)
      }
      // The last byte comes with the tunnel itself.
      socket.write = ((first: string) => {
        socket.write = write
        return write(first.slice(-1))
      }) as typeof socket.write
      tunnel(socket, request, head)
    })
    const from = connector({ proxy: `http://127.0.0.1:${proxy.port}` })
    expect(await ask(await open(from, https(origin.port)))).toContain('"host":"origin"')
  })

  test('leaves the bytes behind the answer to whoever reads next', async () => {
    const server = await start(createServer((socket) => void socket.write('HTTP/1.1 200 OK\r\n\r\nhello')))
    const socket = connectSocket(server.port, '127.0.0.1')
    await once(socket, 'connect')
    const proxy = { target: http(server.port), authorization: undefined }
    expect(await new Promise((resolve) => openTunnel(socket, https(443, 'origin.invalid'), proxy, resolve))).toBeNull()
    const [piece] = (await once(socket, 'data')) as [Buffer]
    expect(piece.toString()).toBe('hello')
    expect(['readable', 'end', 'error'].map((event) => socket.listeners(event).length)).toEqual([0, 1, 0])
    socket.destroy()
  })

  test('tells a proxy that cannot be reached as such', async () => {
    const closed = await start(createServer())
    await closed.close()
    for (const target of [http(80, 'origin.invalid'), https(443, 'origin.invalid')]) {
      const refused = await failure(connector({ proxy: `http://${inUrl}127.0.0.1:${closed.port}` }), target)
      expect(refused.details).toEqual({ phase: 'connect', errno: 'ECONNREFUSED' })
      expect(refused.message).toMatch(/^on the way to the proxy: nobody listens/)
    }
    const plain = await startProxy()
    const error = await failure(connector({ proxy: `https://${inUrl}127.0.0.1:${plain.port}` }), https(443, 'origin.invalid'))
    expect(error.message).toMatch(/^on the way to the proxy: what answers does not speak TLS/)
  })

  test.each([
    'socks5://canary-user:canary-pa:ss@127.0.0.1:1080',
    'canary-user:canary-pa@host:3128',
    'host:3128',
    'http://',
    '',
    'http://canary-user:%zz@host:1',
    7
  ])('refuses %s as a proxy at creation, and quotes nothing', (proxy) => {
    expect(() => connector({ proxy: proxy as string })).toThrow(/^proxy must be the URL of an http or https proxy/)
    try {
      connector({ proxy: proxy as string })
    } catch (error) {
      expectNoSecret(error)
    }
  })
})

describe('the environment', () => {
  /** Which way a connection to this origin goes. */
  async function way(proxy: ProxyServer, target: ConnectTarget, options: Partial<ConnectorOptions> = {}): Promise<string> {
    const before = proxy.accepted
    const from = connector(options)
    const socket = await open(from, target)
    const forwarded = from.forward(target) === undefined ? '' : ' and forwarded'
    socket.destroy()
    return proxy.accepted === before ? `straight${forwarded}` : `proxy${forwarded}`
  }

  test.each(['HTTPS_PROXY', 'https_proxy', 'ALL_PROXY', 'all_proxy'])('%s is honoured for https', async (name) => {
    const origin = await startOrigin()
    const proxy = await startProxy()
    vi.stubEnv(name, `http://${inUrl}127.0.0.1:${proxy.port}`)
    expect(await way(proxy, https(origin.port))).toBe('proxy')
    expect(proxy.asked[0]?.headers['proxy-authorization']).toBe(basic)
    expect(await way(proxy, https(origin.port), { proxy: false })).toBe('straight')
  })

  test.each(['HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'all_proxy'])('%s is honoured for http', async (name) => {
    const origin = await start(createHttpServer())
    const proxy = await startProxy()
    vi.stubEnv(name, `http://127.0.0.1:${proxy.port}`)
    expect(await way(proxy, http(origin.port))).toBe('proxy and forwarded')
    expect(await way(proxy, http(origin.port), { proxy: false })).toBe('straight')
  })

  test('the variable of one scheme says nothing of the other', async () => {
    const origin = await startOrigin()
    const proxy = await startProxy()
    vi.stubEnv('HTTP_PROXY', `http://127.0.0.1:${proxy.port}`)
    expect(await way(proxy, https(origin.port))).toBe('straight')
  })

  test.each(['HTTPS_PROXY', 'all_proxy'])('a proxy in %s without a scheme is spoken to in plain HTTP', async (name) => {
    const origin = await startOrigin()
    const proxy = await startProxy()
    vi.stubEnv(name, `${inUrl}127.0.0.1:${proxy.port}`)
    expect(await way(proxy, https(origin.port))).toBe('proxy')
    expect(proxy.asked[0]?.headers['proxy-authorization']).toBe(basic)
  })

  test('NO_PROXY exempts a host, a host and port, a domain, or all', async () => {
    const origin = await startOrigin()
    const proxy = await startProxy()
    vi.stubEnv('HTTPS_PROXY', `http://127.0.0.1:${proxy.port}`)
    for (const [name, value, expected] of [
      ['NO_PROXY', '127.0.0.1', 'straight'],
      ['no_proxy', 'example.com, 127.0.0.1', 'straight'],
      ['NO_PROXY', `127.0.0.1:${origin.port}`, 'straight'],
      ['NO_PROXY', '127.0.0.1:1', 'proxy'],
      ['NO_PROXY', '.0.0.1', 'straight'],
      ['NO_PROXY', '*.0.0.1', 'straight'],
      ['NO_PROXY', '*', 'straight'],
      ['NO_PROXY', 'example.com', 'proxy']
    ] as const) {
      vi.stubEnv(name, value)
      expect([value, await way(proxy, https(origin.port))]).toEqual([value, expected])
      vi.stubEnv(name, undefined)
    }
  })

  test('is read once for an origin, when it is first asked for', async () => {
    const origin = await startOrigin()
    const proxy = await startProxy()
    const from = connector()
    vi.stubEnv('HTTPS_PROXY', `http://127.0.0.1:${proxy.port}`)
    ;(await open(from, https(origin.port))).destroy()
    vi.stubEnv('HTTPS_PROXY', undefined)
    ;(await open(from, https(origin.port))).destroy()
    expect(proxy.accepted).toBe(2)
    ;(await open(from, https(origin.port, 'localhost'))).destroy()
    expect(proxy.accepted).toBe(2)
  })

  test('a SOCKS proxy in it is an error at the first connection, never a way around it', async () => {
    const origin = await startOrigin()
    vi.stubEnv('ALL_PROXY', `socks5://${inUrl}127.0.0.1:1080`)
    const from = connector()
    const error = await failure(from, https(origin.port))
    expect(error).toMatchObject({ code: 'network', retryable: false, details: { phase: 'connect' } })
    expect(error.message).toContain('only http and https proxies are supported')
    expect(from.forward(http(origin.port))).toBeUndefined()
    await failure(from, http(origin.port))
    expect(origin.accepted).toBe(0)
  })
})

describe('a connection given up', () => {
  const silent: Answer = () => {}
  const reason = new Error('the caller stopped')

  test.each<[string, () => Promise<{ from: Connector; target: ConnectTarget; servers: TestServer[]; at: () => boolean }>]>([
    [
      'right behind the call',
      async () => {
        const server = await startSilent()
        return { from: connector(), target: http(server.port), servers: [server], at: () => true }
      }
    ],
    [
      'in the TLS handshake',
      async () => {
        const server = await startSilent()
        return { from: connector(), target: https(server.port), servers: [server], at: () => server.accepted === 1 }
      }
    ],
    [
      'in the TLS handshake with the proxy',
      async () => {
        const proxy = await startSilent()
        const from = connector({ proxy: `https://127.0.0.1:${proxy.port}` })
        return { from, target: https(443, 'origin.invalid'), servers: [proxy], at: () => proxy.accepted === 1 }
      }
    ],
    [
      'before the answer of the proxy',
      async () => {
        const proxy = await startProxy(silent)
        const from = connector({ proxy: `http://127.0.0.1:${proxy.port}` })
        return { from, target: https(443, 'origin.invalid'), servers: [proxy], at: () => proxy.asked.length === 1 }
      }
    ],
    [
      'within the answer of an https proxy',
      async () => {
        const proxy = await startProxy((socket) => socket.write('HTTP/1.1 200 OK\r\nx-a'), 'secure')
        const from = connector({ proxy: `https://127.0.0.1:${proxy.port}` })
        return { from, target: https(443, 'origin.invalid'), servers: [proxy], at: () => proxy.asked.length === 1 }
      }
    ],
    [
      'in the TLS handshake through the tunnel',
      async () => {
        const origin = await startSilent()
        const proxy = await startProxy()
        const from = connector({ proxy: `http://127.0.0.1:${proxy.port}` })
        return { from, target: https(origin.port), servers: [proxy, origin], at: () => origin.accepted === 1 }
      }
    ],
    [
      'in the TLS handshake through the tunnel of an https proxy',
      async () => {
        const origin = await startSilent()
        const proxy = await startProxy(tunnel, 'secure')
        const from = connector({ proxy: `https://127.0.0.1:${proxy.port}` })
        return { from, target: https(origin.port), servers: [proxy, origin], at: () => origin.accepted === 1 }
      }
    ]
  ])('%s calls back once with the reason, and closes every socket', async (_, arrange) => {
    const probe = probeLeaks()
    const { from, target, servers, at } = await arrange()
    const callback = vi.fn<(error: Error | null, socket: Socket | null) => void>()
    const connecting = from.connect(target, callback)
    if (!at()) await until(at, 'it has come so far')
    connecting.destroy(reason)
    expect(callback).not.toHaveBeenCalled()
    connecting.destroy(new Error('twice'))
    await until(() => callback.mock.calls.length > 0 && servers.every(({ sockets }) => sockets.size === 0), 'all is closed')
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(callback.mock.calls).toEqual([[reason, null]])
    for (const { close } of servers) await close()
    await probe.check()
  })

  test('does nothing to a socket that stands', async () => {
    const server = await start(createHttpServer((_, response) => response.end('hello')))
    const { promise, resolve } = Promise.withResolvers<Socket | null>()
    const connecting = connector().connect(http(server.port), (_, opened) => resolve(opened))
    const socket = await promise
    connecting.destroy(reason)
    expect(socket?.destroyed).toBe(false)
    expect(await ask(socket as Socket)).toContain('hello')
  })
})
