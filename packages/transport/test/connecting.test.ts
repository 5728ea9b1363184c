import dns from 'node:dns'
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { createServer as createTlsServer } from 'node:tls'
import { createCertificate, type FaultConnection, probeLeaks, responseHead, startFaultServer } from '@millrace/testkit'
import { createTransport, type OriginStats, type Transport, type TransportOptions } from '@millrace/transport'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { ask, failing, failure, post, run, times } from './calls.ts'
import { serve, until } from './serve.ts'

const resources: AsyncDisposable[] = []
const use = <T extends AsyncDisposable>(resource: T): T => {
  resources.push(resource)
  return resource
}
afterEach(async () => {
  vi.restoreAllMocks()
  for (const resource of resources.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
})

const create = (options: TransportOptions = {}): Transport => use(createTransport({ retry: false, breaker: false, ...options }))
/** With retries that do not wait. */
const persistent = (options: TransportOptions = {}): Transport =>
  use(
    createTransport({ retry: { baseMs: 1, maxMs: 2, maxAttempts: 3 }, breaker: false, timeouts: { connectMs: 100 }, ...options })
  )
const of = (transport: Transport, url: string): OriginStats | undefined => transport.stats().origins[url]

const answer = `${responseHead(200, { 'content-length': 2 })}ok`
const certificate = createCertificate()

interface Listening {
  readonly port: number
  /** Sockets accepted, and those open now. */
  readonly accepted: () => number
  readonly open: () => number
}

async function listen(server: Server, host: string = '127.0.0.1'): Promise<Listening> {
  const sockets = new Set<Socket>()
  let accepted = 0
  server.on('connection', (socket: Socket) => {
    accepted++
    sockets.add(socket.on('error', () => {}))
    socket.once('close', () => sockets.delete(socket))
  })
  server.listen(0, host)
  await once(server, 'listening')
  use({
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    }
  })
  return { port: (server.address() as AddressInfo).port, accepted: () => accepted, open: () => sockets.size }
}

/** A port nobody listens at. */
async function closedPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** Names resolve as told, all others as always. */
function resolveAs(names: Readonly<Record<string, string | Error | undefined>>): { asked: string[] } {
  const asked: string[] = []
  const real = dns.lookup.bind(dns)
  vi.spyOn(dns, 'lookup').mockImplementation(((
    name: string,
    options: { all?: boolean },
    callback: (...answer: unknown[]) => void
  ) => {
    if (!(name in names)) return real(name, options as never, callback as never)
    asked.push(name)
    const address = names[name]
    if (address === undefined) return undefined // never
    const family = typeof address === 'string' && address.includes(':') ? 6 : 4
    const found = options.all === true ? [null, [{ address, family }]] : [null, address, family]
    return setImmediate(() => (address instanceof Error ? callback(address) : callback(...found)))
  }) as never)
  return { asked }
}

const dnsError = (code: string): Error => Object.assign(new Error(`getaddrinfo ${code}`), { code, syscall: 'getaddrinfo' })

describe('a server that cannot be reached', () => {
  test('refuses: named so, tried again, and the server is found when it is back', async () => {
    const port = await closedPort()
    const url = `http://127.0.0.1:${port}`
    const error = await failure(ask(persistent(), url), 'network')
    expect(error).toMatchObject({
      details: { phase: 'connect', errno: 'ECONNREFUSED' },
      retryable: true,
      context: { attempt: 3 }
    })
    expect(error.cause).toMatchObject({ code: 'ECONNREFUSED' })
    const transport = persistent({ retry: { baseMs: 300, maxMs: 300, random: () => 1 } })
    const call = ask(transport, url)
    await delay(50)
    const server = createHttpServer((_, response) => response.end('ok')).listen(port, '127.0.0.1')
    expect(await call).toBe('ok')
    server.close()
    server.closeAllConnections()
  })

  test('does not answer the SYN, for its backlog is full: the connect clock, tried again, below the deadline of the call', async (context) => {
    const child = use(
      run(`
        import { createServer } from 'node:net'
        const server = createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => console.log(server.address().port))
      `)
    )
    const port = Number(await child.line())
    child.kill('SIGSTOP')
    const fillers: Socket[] = []
    use({ [Symbol.asyncDispose]: async () => fillers.forEach((socket) => void socket.destroy()) })
    let pending = 0
    for (let at = 0; at < 20 && pending < 2; at++) {
      const socket = connect(port, '127.0.0.1').on('error', () => {})
      fillers.push(socket)
      await Promise.race([once(socket, 'connect'), delay(100)])
      if (socket.connecting) pending++
    }
    if (pending < 2) context.skip('this machine accepts connections beyond the backlog')
    const transport = persistent()
    const started = performance.now()
    const error = await failure(ask(transport, `http://127.0.0.1:${port}`, { timeouts: { totalMs: 60_000 } }), 'timeout')
    expect(error).toMatchObject({ details: { clock: 'connect', limitMs: 100 }, retryable: true, context: { attempt: 3 } })
    expect(performance.now() - started).toBeGreaterThanOrEqual(295)
    expect(transport.stats().retries).toBe(2)
    expect(of(transport, `http://127.0.0.1:${port}`)).toMatchObject({ opened: 0, open: 0, busy: 0, requests: 0 })
  })

  test.each<[string, (connection: FaultConnection) => void]>([
    ['closes', (connection) => connection.end()],
    ['resets', (connection) => connection.reset()]
  ])('%s each connection as it accepts it: a network error, tried again', async (_, end) => {
    const server = use(await startFaultServer(end))
    const error = await failure(ask(persistent(), server.url), 'network')
    expect(error.retryable).toBe(true)
    expect(error.context.attempt).toBe(3)
    expect(server.connections).toBeGreaterThanOrEqual(3)
    await until(() => server.open === 0, 'nothing is left open')
  })

  test.each<[string, (connection: FaultConnection) => void]>([
    ['closes', (connection) => connection.end()],
    ['resets', (connection) => connection.reset()]
  ])('%s only the first one: made good by a retry', async (_, end) => {
    const server = use(
      await startFaultServer(async (connection) => {
        if (connection.number === 1) return end(connection)
        await connection.request()
        await connection.write(answer)
      })
    )
    expect(await ask(persistent(), server.url)).toBe('ok')
  })

  test('accepts and is silent: the headers clock, once, and the socket is closed', async () => {
    const server = use(await startFaultServer(() => {}))
    const transport = persistent()
    const error = await failure(ask(transport, server.url, { timeouts: { headersMs: 80 } }), 'timeout')
    expect(error.details).toMatchObject({ clock: 'headers', limitMs: 80 })
    expect(server.connections).toBe(1)
    await until(() => server.open === 0, 'the socket is closed')
  })
})

describe('a name', () => {
  test.each([
    ['ENOTFOUND', 'no host has this name', 1],
    ['EAI_AGAIN', 'the name server gave no answer', 3],
    ['EAI_FAIL', 'the name server gave no answer', 3]
  ])('that gives %s says "%s"', async (code, says, attempts) => {
    const { asked } = resolveAs({ 'api.test': dnsError(code) })
    const error = await failure(ask(persistent(), 'http://api.test'), 'network')
    expect(error.message).toContain(says)
    expect(error.details).toEqual({ phase: 'dns', errno: code })
    expect(error.retryable).toBe(attempts > 1)
    expect(error.context.attempt).toBe(attempts)
    if (attempts === 1) expect(asked).toHaveLength(1)
  })

  test('that is not resolved is held to the connect clock, is asked for once, and others are not held up', async () => {
    const server = use(await serve((_, response) => response.end('ok')))
    const { asked } = resolveAs({ 'slow.test': undefined, 'fast.test': '127.0.0.1' })
    const transport = create({ timeouts: { connectMs: 150 } })
    const slow = times(20, () => failure(ask(transport, 'http://slow.test'), 'timeout'))
    expect(await ask(transport, server.url.replace('127.0.0.1', 'fast.test'))).toBe('ok')
    for (const error of await Promise.all(slow)) expect(error.details.clock).toBe('connect')
    expect(asked.filter((name) => name === 'slow.test')).toHaveLength(1)
    expect(of(transport, 'http://slow.test')).toMatchObject({ busy: 0, queued: 0, opened: 0 })
  })

  test('whose address changes is followed when the old server is gone', async () => {
    const first = await serve((_, response) => response.end('first'))
    const { port } = new URL(first.url)
    const names: Record<string, string> = { 'moving.test': '127.0.0.1' }
    resolveAs(names)
    const transport = create()
    expect(await ask(transport, `http://moving.test:${port}`)).toBe('first')
    const second = createHttpServer((_, response) => response.end('second')).listen(Number(port), '127.0.0.2')
    await once(second, 'listening')
    names['moving.test'] = '127.0.0.2'
    await first[Symbol.asyncDispose]()
    expect(await ask(transport, `http://moving.test:${port}`)).toBe('second')
    second.close()
    second.closeAllConnections()
  })

  test.each(['http://[::1]', 'http://six.test'])('or address of IPv6 alone is reached (%s)', async (base) => {
    resolveAs({ 'six.test': '::1' })
    const server = createHttpServer((request, response) => response.end(request.headers.host))
    const { port } = await listen(server, '::1')
    const transport = create()
    expect(await ask(transport, `${base}:${port}`)).toBe(`${base.slice(7)}:${port}`)
    expect(of(transport, `${base}:${port}`)).toMatchObject({ opened: 1, busy: 0 })
    server.closeAllConnections()
  })
})

describe('TLS', () => {
  test.each([
    ['untrusted', certificate, undefined, 'nobody this process trusts has signed the certificate'],
    ['expired', createCertificate({ state: 'expired' }), 'own', 'the certificate is not valid today'],
    ['of another name', createCertificate({ names: ['other.test'] }), 'own', 'the certificate belongs to another host name']
  ])('with a certificate that is %s is tried once, and says so', async (_, shown, ca, says) => {
    const server = createHttpsServer(shown, (_request, response) => response.end('ok'))
    const { port, accepted, open } = await listen(server)
    const transport = persistent(ca === undefined ? {} : { ca: shown.cert })
    const error = await failure(ask(transport, `https://127.0.0.1:${port}`), 'network')
    expect(error.message).toContain(says)
    expect(error).toMatchObject({ details: { phase: 'tls' }, retryable: false, context: { attempt: 1 } })
    expect(accepted()).toBe(1)
    await until(() => open() === 0, 'the socket is closed')
    expect(of(transport, `https://127.0.0.1:${port}`)).toMatchObject({ open: 0, busy: 0, requests: 0 })
  })

  test('against a server of plain HTTP is tried once', async () => {
    const server = createHttpServer((_, response) => response.end('ok'))
    const { port, accepted } = await listen(server)
    const error = await failure(ask(persistent(), `https://127.0.0.1:${port}`), 'network')
    expect(error).toMatchObject({ details: { phase: 'tls' }, retryable: false })
    expect(error.message).toContain('does not speak TLS')
    expect(accepted()).toBe(1)
  })

  test('that is reset in the handshake is tried again, and made good', async () => {
    const server = createTlsServer(certificate, (socket) => socket.on('error', () => {}).on('data', () => socket.write(answer)))
    const { port } = await listen(server)
    let cut = 0
    const front = createServer((near) => {
      if (cut < 3) return void near.once('data', () => (cut++, near.resetAndDestroy()))
      const far = connect(port, '127.0.0.1').on('error', () => {})
      return near.pipe(far).pipe(near)
    })
    const { port: frontPort } = await listen(front)
    const transport = persistent({ ca: certificate.cert, timeouts: { connectMs: 2000 } })
    expect(await ask(transport, `https://127.0.0.1:${frontPort}`)).toBe('ok')
    expect(cut).toBe(3)
    expect(transport.stats()).toMatchObject({ resent: 2, retries: 1 })
  })

  test('that stalls in the handshake trips the connect clock, each time, and leaves nothing', async () => {
    const { port, accepted, open } = await listen(createServer((socket) => void socket.resume()))
    const transport = persistent()
    const error = await failure(ask(transport, `https://127.0.0.1:${port}`), 'timeout')
    expect(error).toMatchObject({ details: { clock: 'connect' }, context: { attempt: 3 } })
    expect(accepted()).toBe(3)
    await until(() => open() === 0, 'the sockets are closed')
  })

  test('fails 300 times without leaving anything behind', async () => {
    const probe = probeLeaks()
    const server = createHttpsServer(certificate, (_, response) => response.end('ok'))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`
    const transport = createTransport({ retry: false, breaker: false })
    for (let round = 0; round < 15; round++) await Promise.all(times(20, () => failure(ask(transport, url), 'network')))
    expect(of(transport, url)).toMatchObject({ opened: 0, open: 0, busy: 0, queued: 0 })
    await transport.close()
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
    await probe.check()
  })
})

describe('a line that goes dead', () => {
  test('costs the call on it its headers clock and the socket; the next call goes over a fresh one', async () => {
    const child = use(
      run(`
        import { createServer } from 'node:http'
        const server = createServer((_, response) => response.end('ok')).listen(0, '127.0.0.1', () => console.log(server.address().port))
      `)
    )
    const url = `http://127.0.0.1:${await child.line()}`
    const transport = create()
    expect(await ask(transport, url)).toBe('ok')
    child.kill('SIGSTOP')
    const error = await failure(ask(transport, url, { timeouts: { headersMs: 120 } }), 'timeout')
    expect(error.details.clock).toBe('headers')
    expect(of(transport, url)).toMatchObject({ busy: 0 })
    child.kill('SIGCONT')
    expect(await ask(transport, url)).toBe('ok')
    expect(of(transport, url)).toMatchObject({ opened: 2, open: 1 })
  })
})

test('without a file descriptor left, calls fail with its name and the cure, and go on when there are some again', async () => {
  const server = use(await serve((_, response) => void setTimeout(() => response.end('ok'), 100)))
  const child = use(
    run(
      `
      import { createTransport } from '@millrace/transport'
      const url = ${JSON.stringify(server.url)}
      const transport = createTransport({ retry: false, breaker: false })
      const ask = async () => (await transport.send({ method: 'POST', url, headers: {}, body: '{}' })).body.text()
      await ask()
      const outcomes = await Promise.allSettled(Array.from({ length: 100 }, ask))
      const failed = outcomes.filter(({ status }) => status === 'rejected').map(({ reason }) => reason)
      const { busy, queued } = transport.stats().origins[url]
      console.log(JSON.stringify({
        served: outcomes.length - failed.length, failed: failed.length, busy, queued,
        errnos: [...new Set(failed.map(({ code, details }) => code + ' ' + details.phase + ' ' + details.errno))],
        message: failed[0]?.message, after: await ask()
      }))
      await transport.close()
    `,
      ['bash', '-c', 'ulimit -n 64; exec "$0" "$@"', process.execPath]
    )
  )
  const told = JSON.parse(await child.line()) as Record<string, unknown>
  expect(told).toMatchObject({ busy: 0, queued: 0, errnos: ['network connect EMFILE'], after: 'ok' })
  expect(told['message']).toContain('ulimit -n')
  expect(told['served']).toBeGreaterThan(5)
  expect(told['failed']).toBeGreaterThan(5)
  expect(await child.ended).toBe(0)
})

describe('the head of a response', () => {
  test.each<[string, (connection: FaultConnection) => void]>([
    ['a reset', (connection) => connection.reset()],
    ['a close', (connection) => connection.end()]
  ])('%s in its place, on a fresh socket, is tried again within the budget', async (_, end) => {
    let requests = 0
    const server = use(
      await startFaultServer(async (connection) => {
        await connection.request()
        if (++requests < 3) return end(connection)
        await connection.write(answer)
      })
    )
    const transport = persistent()
    expect(await ask(transport, server.url)).toBe('ok')
    expect(requests).toBe(3)
    expect(transport.stats()).toMatchObject({ retries: 2, resent: 0 })
  })

  test('that drips trips the headers clock, however steadily it comes', async () => {
    const server = use(
      await startFaultServer(async (connection) => {
        await connection.request()
        await connection.write('HTTP/1.1 200 OK\r\n')
        for (;;) {
          await connection.write('x')
          await connection.pause(10)
        }
      })
    )
    const error = await failure(ask(persistent(), server.url, { timeouts: { headersMs: 120 } }), 'timeout')
    expect(error.details.clock).toBe('headers')
    expect(server.connections).toBe(1)
    await until(() => server.open === 0, 'the socket is closed')
  })

  test('without end is refused before it fills the memory', async () => {
    let written = 0
    const server = use(
      await startFaultServer(async (connection) => {
        await connection.request()
        await connection.write('HTTP/1.1 200 OK\r\n')
        for (;;) {
          const line = `x-${written}: ${'a'.repeat(1000)}\r\n`
          await connection.write(line)
          written += line.length
        }
      })
    )
    const error = await failure(ask(persistent(), server.url), 'protocol')
    expect(error.details.reason).toBe('too-large')
    expect(server.connections).toBe(1)
    await until(() => server.open === 0, 'the socket is closed')
  })

  test('behind a thousand early hints is the one that counts', async () => {
    const server = use(
      await startFaultServer(async (connection) => {
        await connection.request()
        for (let hint = 0; hint < 1000; hint++) await connection.write(responseHead(103, { link: '</style.css>; rel=preload' }))
        await connection.write(answer)
        await connection.request()
        await connection.write(answer)
      })
    )
    const transport = create()
    const response = await transport.send(post(server.url))
    expect(response.status).toBe(200)
    expect(response.headers['link']).toBeUndefined()
    expect(await response.body.text()).toBe('ok')
    expect(await ask(transport, server.url)).toBe('ok')
    expect(server.connections).toBe(1)
  })

  test('behind early hints without end trips the headers clock', async () => {
    const server = use(
      await startFaultServer(async (connection) => {
        await connection.request()
        for (;;) {
          await connection.write(responseHead(103))
          await connection.pause(1)
        }
      })
    )
    const error = await failure(ask(create(), server.url, { timeouts: { headersMs: 100 } }), 'timeout')
    expect(error.details.clock).toBe('headers')
  })

  test.each(['closes', 'keeps the socket open'])(
    'of an early 413 is given while the body is still being sent; the server %s',
    async (then) => {
      const server = use(
        await startFaultServer(async (connection) => {
          await connection.pause(10)
          await connection.write(`${responseHead(413, { 'content-length': 5, connection: 'close' })}large`)
          if (then === 'closes') connection.end()
        })
      )
      const transport = create()
      const response = await transport.send(post(server.url, { body: 'x'.repeat(8 * 1024 * 1024) }))
      expect(response.status).toBe(413)
      expect(await response.body.text()).toBe('large')
      await until(() => server.open === 0, 'the socket is closed')
      expect(of(transport, server.url)).toMatchObject({ busy: 0 })
    }
  )

  test('of an early 413 is given with a body that is still being made, whose source is let go', async () => {
    const server = use(
      await startFaultServer(async (connection) => {
        await connection.pause(30)
        await connection.write(`${responseHead(413, { 'content-length': 5 })}large`)
      })
    )
    let isReturned = false
    async function* endless(): AsyncGenerator<Uint8Array> {
      try {
        for (;;) {
          yield Buffer.alloc(1024)
          await delay(2)
        }
      } finally {
        isReturned = true
      }
    }
    const transport = create()
    const response = await transport.send(post(server.url, { body: endless() }))
    expect(response.status).toBe(413)
    expect(await response.body.text()).toBe('large')
    await until(() => isReturned, 'the source is let go')
    await until(() => server.open === 0, 'the socket is closed')
    expect(of(transport, server.url)).toMatchObject({ busy: 0 })
  })
})

describe('a redirect', () => {
  test.each([301, 302, 303, 307, 308])('of a POST (%i) is given as it is: no other server is asked', async (status) => {
    const other = use(await serve((_, response) => response.end('stolen')))
    const server = use(await serve((_, response) => response.writeHead(status, { location: `${other.url}/elsewhere` }).end()))
    const transport = create()
    const headers = { authorization: 'Bearer canary', 'x-api-key': 'canary' }
    const response = await transport.send(post(server.url, { headers }))
    expect([response.status, response.headers['location']]).toEqual([status, `${other.url}/elsewhere`])
    await response.body.text()
    await transport.fetch(server.url, { method: 'POST', headers, body: '{}' }).catch(() => undefined)
    expect(server.requests).toBe(2)
    expect(other.sockets).toBe(0)
  })

  test('to itself is not followed for ever, nor at all', async () => {
    const server = use(await serve((_, response) => response.writeHead(307, { location: '/' }).end()))
    const transport = persistent()
    expect((await transport.send(post(server.url))).status).toBe(307)
    expect(server.requests).toBe(1)
  })
})

test('an abort in the middle of an upload settles at once and closes the socket', async () => {
  const server = use(await startFaultServer(() => {}))
  const transport = create()
  const controller = new AbortController()
  async function* endless(): AsyncGenerator<Uint8Array> {
    for (;;) {
      yield Buffer.alloc(1024)
      await delay(1)
    }
  }
  const call = failing(ask(transport, server.url, { body: endless(), signal: controller.signal }))
  await until(() => server.open === 1, 'it is being sent')
  await delay(20)
  controller.abort('stop')
  expect(await call).toBe('stop')
  await until(() => server.open === 0, 'the socket is closed')
  expect(of(transport, server.url)).toMatchObject({ busy: 0, queued: 0 })
})
