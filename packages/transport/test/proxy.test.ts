import { once } from 'node:events'
import { createServer as createHttpServer, request as forward, type IncomingMessage, type ServerResponse } from 'node:http'
import { createSecureServer } from 'node:http2'
import { createServer as createHttpsServer } from 'node:https'
import { type AddressInfo, connect, type Server, type Socket } from 'node:net'
import { inspect } from 'node:util'
import { createCertificate, probeLeaks } from '@millrace/testkit'
import { createTransport, type OriginStats, type Transport, type TransportOptions } from '@millrace/transport'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { ask, failing, failure, post, times } from './calls.ts'
import { until } from './serve.ts'

const certificate = createCertificate()
const user = 'canary-user'
const password = 'canary:pa@ss'
const inUrl = `${user}:${encodeURIComponent(password)}@`
const basic = `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`

const resources: (() => Promise<unknown>)[] = []
beforeEach(() => {
  for (const name of ['http_proxy', 'https_proxy', 'all_proxy', 'no_proxy']) {
    vi.stubEnv(name, undefined)
    vi.stubEnv(name.toUpperCase(), undefined)
  }
})
afterEach(async () => {
  vi.unstubAllEnvs()
  for (const close of resources.splice(0).toReversed()) await close()
})

function create(options: TransportOptions = {}): Transport {
  const transport = createTransport({ retry: false, breaker: false, ca: certificate.cert, ...options })
  resources.push(() => transport.close())
  return transport
}
const of = (transport: Transport, url: string): OriginStats | undefined => transport.stats().origins[url]

interface Listening {
  readonly port: number
  readonly accepted: () => number
  readonly sockets: ReadonlySet<Socket>
}

async function listen(server: Server): Promise<Listening> {
  const sockets = new Set<Socket>()
  let accepted = 0
  server.on('connection', (socket: Socket) => {
    accepted++
    sockets.add(socket.on('error', () => {}))
    socket.once('close', () => sockets.delete(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  resources.push(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  return { port: (server.address() as AddressInfo).port, accepted: () => accepted, sockets }
}

/** An origin that tells what it was sent. */
async function startOrigin(scheme: 'http' | 'https'): Promise<Listening & { url: string; seen: IncomingMessage[] }> {
  const seen: IncomingMessage[] = []
  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    seen.push(request)
    request.resume().on('end', () => response.end(`from ${scheme}`))
  }
  const listening = await listen(scheme === 'http' ? createHttpServer(answer) : createHttpsServer(certificate, answer))
  return { ...listening, seen, url: `${scheme}://127.0.0.1:${listening.port}` }
}

interface ProxyServer extends Listening {
  readonly address: string
  /** Every request it was sent, CONNECT among them. */
  readonly asked: IncomingMessage[]
  /** The ends of its tunnels. */
  readonly tunnels: Socket[]
}

type Refusal = (socket: Socket) => void

/** A forward proxy that asks for credentials. */
async function startProxy({ secure = false, refuse }: { secure?: boolean; refuse?: Refusal } = {}): Promise<ProxyServer> {
  const asked: IncomingMessage[] = []
  const tunnels: Socket[] = []
  const isKnown = (request: IncomingMessage): boolean => request.headers['proxy-authorization'] === basic
  const pass = (request: IncomingMessage, response: ServerResponse): void => {
    asked.push(request)
    if (!isKnown(request)) return void response.writeHead(407, { 'proxy-authenticate': 'Basic' }).end()
    const { 'proxy-authorization': _, ...headers } = request.headers
    const onward = forward(request.url ?? '', { method: request.method, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502)
      answer.pipe(response)
    })
    return void request.pipe(onward)
  }
  const server = secure ? createHttpsServer(certificate, pass) : createHttpServer(pass)
  server.on('connect', (request: IncomingMessage, socket: Socket) => {
    asked.push(request)
    socket.on('error', () => {}).on('end', () => socket.end())
    if (refuse !== undefined) return refuse(socket.resume())
    if (!isKnown(request)) return socket.end('HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\n\r\n')
    const far = connect(Number(/\d+$/.exec(request.url ?? '')?.[0]), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
      tunnels.push(far, socket)
      far.pipe(socket).pipe(far)
    })
    far.on('error', () => socket.destroy())
    socket.on('close', () => far.destroy())
    far.on('close', () => socket.destroySoon())
  })
  const listening = await listen(server)
  return { ...listening, asked, tunnels, address: `${secure ? 'https' : 'http'}://${inUrl}127.0.0.1:${listening.port}` }
}

function expectNoSecret(error: unknown): void {
  const told = `${inspect(error, { depth: 9, showHidden: true })} ${JSON.stringify(error)} ${String(error)}`
  for (const secret of [password, encodeURIComponent(password), user, basic.slice(6)]) expect(told).not.toContain(secret)
}

describe.each([
  ['plain', 'the option'],
  ['plain', 'the environment'],
  ['secure', 'the option'],
  ['secure', 'the environment']
] as const)('a %s proxy given by %s', (kind, by) => {
  async function start(): Promise<{ proxy: ProxyServer; transport: Transport }> {
    const proxy = await startProxy({ secure: kind === 'secure' })
    if (by === 'the environment') vi.stubEnv('ALL_PROXY', proxy.address)
    return { proxy, transport: create(by === 'the option' ? { proxy: proxy.address } : {}) }
  }

  test('carries calls to an https origin in tunnels, which are reused; the origin learns nothing of it', async () => {
    const origin = await startOrigin('https')
    const { proxy, transport } = await start()
    for (let call = 0; call < 20; call++) {
      expect(await ask(transport, `${origin.url}/path`, { headers: { authorization: 'Bearer key' } })).toBe('from https')
    }
    expect(proxy.asked.map(({ method, url }) => `${method} ${url}`)).toEqual([`CONNECT 127.0.0.1:${origin.port}`])
    expect(proxy.asked[0]?.headers).toEqual({ host: `127.0.0.1:${origin.port}`, 'proxy-authorization': basic })
    expect(origin.seen).toHaveLength(20)
    for (const { headers, url } of origin.seen) {
      expect(url).toBe('/path')
      expect(Object.keys(headers).filter((name) => name.startsWith('proxy'))).toEqual([])
    }
    expect(of(transport, origin.url)).toMatchObject({ opened: 1, open: 1, requests: 20, reused: 19, busy: 0 })
  })

  test('forwards calls to an http origin, over sockets that are reused', async () => {
    const origin = await startOrigin('http')
    const { proxy, transport } = await start()
    for (let call = 0; call < 20; call++) expect(await ask(transport, `${origin.url}/path?a=b`)).toBe('from http')
    expect(proxy.accepted()).toBe(1)
    expect(proxy.asked.map(({ method, url }) => `${method} ${url}`)).toEqual(times(20, () => `POST ${origin.url}/path?a=b`))
    for (const { headers } of proxy.asked) {
      expect(headers['proxy-authorization']).toBe(basic)
      expect(headers.host).toBe(`127.0.0.1:${origin.port}`)
    }
    expect(origin.seen[0]?.url).toBe('/path?a=b')
  })

  test('carries 50 calls at a time within the bound, ahead ones included', async () => {
    const origin = await startOrigin('https')
    const proxy = await startProxy({ secure: kind === 'secure' })
    if (by === 'the environment') vi.stubEnv('HTTPS_PROXY', proxy.address)
    const transport = create({ maxConnections: 4, ...(by === 'the option' ? { proxy: proxy.address } : {}) })
    await transport.warm(origin.url, { connections: 2 })
    expect(proxy.asked).toHaveLength(2)
    expect(await Promise.all(times(50, () => ask(transport, origin.url)))).toEqual(times(50, () => 'from https'))
    expect(proxy.accepted()).toBe(4)
    expect(origin.accepted()).toBe(4)
  })
})

test('false goes straight whatever the environment says', async () => {
  const origin = await startOrigin('https')
  const proxy = await startProxy()
  vi.stubEnv('HTTPS_PROXY', proxy.address)
  expect(await ask(create({ proxy: false }), origin.url)).toBe('from https')
  vi.stubEnv('NO_PROXY', '127.0.0.1')
  expect(await ask(create(), origin.url)).toBe('from https')
  expect(proxy.accepted()).toBe(0)
})

test('HTTP/2 goes through a tunnel: many calls, one socket', async () => {
  const server = createSecureServer(certificate, (request, response) => {
    request.resume().on('end', () => void response.end(`over ${request.httpVersion}`))
  })
  const sessions: { destroy(): void }[] = []
  server.on('session', (session) => sessions.push(session))
  const origin = await listen(server as unknown as Server)
  resources.push(async () => sessions.forEach((session) => session.destroy()))
  const proxy = await startProxy()
  const transport = create({ proxy: proxy.address, http2: true })
  const url = `https://127.0.0.1:${origin.port}`
  expect(new Set(await Promise.all(times(40, () => ask(transport, url))))).toEqual(new Set(['over 2.0']))
  expect(proxy.asked).toHaveLength(1)
  expect(of(transport, url)).toMatchObject({ opened: 1, requests: 40 })
})

describe('a proxy that does not do as it should', () => {
  test('asks for other credentials: one attempt, with the cure and without them', async () => {
    const origin = await startOrigin('https')
    const proxy = await startProxy()
    const transport = create({ proxy: proxy.address.replace('canary-user', 'nobody'), retry: { baseMs: 1 } })
    const error = await failure(ask(transport, origin.url), 'network')
    expect(error.message).toContain('407')
    expect(error.retryable).toBe(false)
    expectNoSecret(error)
    expect(proxy.asked).toHaveLength(1)
    expect(origin.accepted()).toBe(0)
  })

  test('asks the same of a forwarded call: its answer is given as it is', async () => {
    const origin = await startOrigin('http')
    const proxy = await startProxy()
    const transport = create({ proxy: `http://127.0.0.1:${proxy.port}` })
    expect((await transport.send(post(origin.url))).status).toBe(407)
    expect(origin.accepted()).toBe(0)
  })

  test.each([
    [502, 3],
    [403, 1]
  ])('refuses the tunnel with %i: %i attempts', async (status, attempts) => {
    const proxy = await startProxy({ refuse: (socket) => void socket.end(`HTTP/1.1 ${status} No\r\n\r\n`) })
    const transport = create({ proxy: proxy.address, retry: { baseMs: 1, maxMs: 1 } })
    const error = await failure(ask(transport, 'https://origin.invalid'), 'network')
    expect(error).toMatchObject({ details: { phase: 'connect' }, context: { attempt: attempts } })
    expectNoSecret(error)
    await until(() => proxy.sockets.size === 0, 'the sockets are closed')
  })

  test('never answers: the connect clock, and the socket is closed', async () => {
    const proxy = await startProxy({ refuse: () => {} })
    const transport = create({ proxy: proxy.address, timeouts: { connectMs: 100 } })
    const error = await failure(ask(transport, 'https://origin.invalid'), 'timeout')
    expect(error.details.clock).toBe('connect')
    expect((await failure(transport.warm('https://origin.invalid'), 'timeout')).details.clock).toBe('connect')
    await until(() => proxy.sockets.size === 0, 'the sockets are closed')
    expect(of(transport, 'https://origin.invalid')).toMatchObject({ busy: 0, open: 0 })
  })

  test('is not there: a network error that names the proxy, and no way around it', async () => {
    const origin = await startOrigin('https')
    const proxy = await startProxy()
    const gone = createHttpServer().listen(0, '127.0.0.1')
    await once(gone, 'listening')
    const { port } = gone.address() as AddressInfo
    await new Promise((resolve) => gone.close(resolve))
    const transport = create({ proxy: proxy.address.replace(String(proxy.port), String(port)) })
    const error = await failure(ask(transport, origin.url), 'network')
    expect(error).toMatchObject({ details: { phase: 'connect', errno: 'ECONNREFUSED' }, retryable: true })
    expect(error.message).toContain('proxy')
    expectNoSecret(error)
    expect(origin.accepted()).toBe(0)
  })

  test('cuts its idle tunnels: the next call opens another, and the caller does not notice', async () => {
    const origin = await startOrigin('https')
    const proxy = await startProxy()
    const transport = create({ proxy: proxy.address })
    for (let call = 0; call < 20; call++) {
      expect(await ask(transport, origin.url)).toBe('from https')
      for (const socket of proxy.tunnels.splice(0)) {
        if (call % 2 === 0) socket.destroy()
        else socket.resetAndDestroy()
      }
      if (call % 3 === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    }
    expect(proxy.asked).toHaveLength(20)
    expect(of(transport, origin.url)).toMatchObject({ opened: 20, busy: 0 })
  })

  test('and a call that is aborted before the tunnel stands leaves nothing', async () => {
    const probe = probeLeaks()
    const proxy = createHttpServer()
    const sockets: Socket[] = []
    proxy.on('connect', (_: IncomingMessage, socket: Socket) => sockets.push(socket.on('error', () => {}).resume()))
    proxy.listen(0, '127.0.0.1')
    await once(proxy, 'listening')
    const transport = createTransport({ proxy: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`, retry: false })
    const controller = new AbortController()
    const calls = times(3, () => failing(ask(transport, 'https://origin.invalid', { signal: controller.signal })))
    await until(() => sockets.length === 3, 'all have asked')
    controller.abort('stop')
    expect(await Promise.all(calls)).toEqual(['stop', 'stop', 'stop'])
    await until(() => sockets.every(({ destroyed, readableEnded }) => destroyed || readableEnded), 'their sockets are closed')
    await transport.close()
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => proxy.close(resolve))
    await probe.check()
  })
})
