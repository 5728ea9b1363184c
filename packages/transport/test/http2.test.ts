import { once } from 'node:events'
import { constants, createSecureServer, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2'
import { createServer as createHttpsServer } from 'node:https'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { createCertificate, probeLeaks } from '@millrace/testkit'
import { createTransport, type OriginStats, type Transport, type TransportOptions } from '@millrace/transport'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { ask, failing, failure, post, run, times } from './calls.ts'
import { until } from './serve.ts'

const certificate = createCertificate()
const { NGHTTP2_CANCEL, NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM } = constants

const resources: AsyncDisposable[] = []
const use = <T extends AsyncDisposable>(resource: T): T => {
  resources.push(resource)
  return resource
}
afterEach(async () => {
  vi.restoreAllMocks()
  for (const resource of resources.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
})

const create = (options: TransportOptions = {}): Transport =>
  use(createTransport({ http2: true, ca: certificate.cert, retry: false, breaker: false, ...options }))
const of = (transport: Transport, url: string): OriginStats => {
  const found = transport.stats().origins[url]
  if (found === undefined) throw new Error('nothing has been asked of this origin')
  const { breaker: _, breakerOpened: _opened, breakerRejected: _rejected, ...stats } = found
  return stats
}

interface Http2Server extends AsyncDisposable {
  readonly url: string
  readonly port: number
  readonly sessions: ServerHttp2Session[]
  /** Requests that came whole. */
  readonly streams: ServerHttp2Stream[]
  /** The most streams open at a time. */
  readonly peak: number
  /** Sockets accepted, and those open now. */
  readonly sockets: number
  readonly open: number
}

const ok = (stream: ServerHttp2Stream): void => {
  stream.respond({ ':status': 200 })
  stream.end('ok')
}

async function start(
  answer: (stream: ServerHttp2Stream, number: number) => void,
  { maxConcurrentStreams, port = 0 }: { maxConcurrentStreams?: number; port?: number } = {}
): Promise<Http2Server> {
  const settings = maxConcurrentStreams === undefined ? {} : { settings: { maxConcurrentStreams } }
  const server = createSecureServer({ ...certificate, ...settings })
  const sessions: ServerHttp2Session[] = []
  const streams: ServerHttp2Stream[] = []
  const sockets = new Set<Socket>()
  let accepted = 0
  let running = 0
  let peak = 0
  server.on('secureConnection', (socket) => {
    accepted++
    sockets.add(socket.on('error', () => {}))
    socket.once('close', () => sockets.delete(socket))
  })
  server.on('session', (session) => void sessions.push(session.on('error', () => {})))
  server.on('stream', (stream) => {
    peak = Math.max(peak, ++running)
    stream.once('close', () => running--)
    stream
      .on('error', () => {})
      .resume()
      .on('end', () => {
        streams.push(stream)
        answer(stream, streams.length)
      })
  })
  await listen(server, port)
  return {
    url: `https://127.0.0.1:${portOf(server)}`,
    port: portOf(server),
    sessions,
    streams,
    get peak() {
      return peak
    },
    get sockets() {
      return accepted
    },
    get open() {
      return sockets.size
    },
    async [Symbol.asyncDispose]() {
      if (!server.listening) return
      for (const session of sessions) session.destroy()
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    }
  }
}

async function listen(server: Server, port: number = 0): Promise<void> {
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
}
const portOf = (server: Server): number => (server.address() as AddressInfo).port

/** In front of a server: connections made before `freeze` carry nothing any more, and nobody is told. */
async function startRelay(
  port: number
): Promise<AsyncDisposable & { url: string; freeze: () => void; connections: () => number }> {
  const pairs: [Socket, Socket][] = []
  const server = createServer((near) => {
    const far = connect(port, '127.0.0.1').on('error', () => {})
    near
      .on('error', () => {})
      .pipe(far)
      .pipe(near)
    pairs.push([near, far])
  })
  await listen(server)
  return {
    url: `https://127.0.0.1:${portOf(server)}`,
    connections: () => pairs.length,
    freeze() {
      for (const [near, far] of pairs) {
        near.unpipe(far).pause()
        far.unpipe(near).pause()
      }
    },
    async [Symbol.asyncDispose]() {
      for (const socket of pairs.flat()) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    }
  }
}

describe('many calls', () => {
  test('1,000 one after the other, then 50 at a time, go over one socket', async () => {
    const server = use(await start(ok))
    const transport = create()
    for (let call = 0; call < 1000; call++) expect(await ask(transport, server.url)).toBe('ok')
    for (let round = 0; round < 20; round++) {
      expect(await Promise.all(times(50, () => ask(transport, server.url)))).toEqual(times(50, () => 'ok'))
    }
    expect(server.sockets).toBe(1)
    expect(of(transport, server.url)).toEqual({ opened: 1, open: 1, busy: 0, queued: 0, requests: 2000, reused: 1999 })
  })

  test.each(['cold', 'warm'])('300 at a time need three sessions of a hundred, from a %s start', async (state) => {
    const held: ServerHttp2Stream[] = []
    const server = use(
      await start((stream) => (state === 'warm' && server.streams.length === 1 ? ok(stream) : held.push(stream)))
    )
    const transport = create()
    if (state === 'warm') await ask(transport, server.url)
    const calls = times(300, () => ask(transport, server.url))
    await until(() => held.length === 300, 'all have arrived')
    expect(of(transport, server.url)).toMatchObject({ opened: 3, open: 3, busy: 300, queued: 0 })
    for (const stream of held) ok(stream)
    expect(await Promise.all(calls)).toEqual(times(300, () => 'ok'))
    expect(server.sockets).toBe(3)
    expect(of(transport, server.url)).toMatchObject({ open: 3, busy: 0 })
  })

  test('at most maxConnections sessions, and the rest waits in the queue', async () => {
    const held: ServerHttp2Stream[] = []
    const server = use(await start((stream) => held.push(stream)))
    const transport = create({ maxConnections: 1 })
    const calls = times(150, () => ask(transport, server.url))
    await until(() => held.length === 100, 'a hundred have arrived')
    await delay(20)
    expect(of(transport, server.url)).toMatchObject({ opened: 1, busy: 100, queued: 50 })
    for (const stream of held.splice(0)) ok(stream)
    await until(() => held.length === 50, 'the others have arrived')
    for (const stream of held) ok(stream)
    await Promise.all(calls)
    expect(server.sockets).toBe(1)
  })

  test.each([1, 3])('a server that allows %i streams at a time is served as many, and all are answered', async (limit) => {
    const server = use(await start((stream) => void setTimeout(ok, 2, stream), { maxConcurrentStreams: limit }))
    const transport = create({ maxConnections: 1 })
    const answers = await Promise.all(times(40, () => ask(transport, server.url)))
    expect(new Set(answers)).toEqual(new Set(['ok']))
    expect(server.peak).toBe(limit)
    expect(of(transport, server.url)).toMatchObject({ opened: 1, busy: 0, queued: 0, requests: 40 })
  })

  test('a server that only speaks HTTP/1.1 is spoken to in it, over as many sockets as needed', async () => {
    let peak = 0
    const open = new Set<Socket>()
    const server = createHttpsServer(certificate, (_, response) => {
      peak = Math.max(peak, open.size)
      setTimeout(() => response.end('ok'), 20)
    })
    server.on('secureConnection', (socket) => {
      open.add(socket)
      socket.on('close', () => open.delete(socket))
    })
    await listen(server)
    use({
      [Symbol.asyncDispose]: async () => {
        server.closeAllConnections()
        await new Promise((resolve) => server.close(resolve))
      }
    })
    const url = `https://127.0.0.1:${portOf(server)}`
    const transport = create({ maxConnections: 4 })
    expect(await Promise.all(times(40, () => ask(transport, url)))).toEqual(times(40, () => 'ok'))
    expect(peak).toBe(4)
    expect(of(transport, url)).toMatchObject({ opened: 4, requests: 40, reused: 36 })
  })

  test('plain http has no HTTP/2: its calls do not wait for each other', async () => {
    let sockets = 0
    const server = createServer((socket) => void (sockets++, socket.on('error', () => {})))
    await listen(server)
    const transport = create()
    const controller = new AbortController()
    const calls = times(3, () => failing(ask(transport, `http://127.0.0.1:${portOf(server)}`, { signal: controller.signal })))
    await until(() => sockets === 3, 'three sockets are open')
    controller.abort('stop')
    expect(await Promise.all(calls)).toEqual(['stop', 'stop', 'stop'])
    server.close()
  })
})

describe('a server that says goodbye', () => {
  test('between two calls: the next one goes to a new session', async () => {
    const server = use(await start(ok))
    const transport = create()
    await ask(transport, server.url)
    server.sessions[0]?.goaway()
    await until(() => of(transport, server.url).open === 0, 'the session is closed')
    expect(await ask(transport, server.url)).toBe('ok')
    expect(of(transport, server.url)).toMatchObject({ opened: 2, open: 1, busy: 0 })
  })

  test('during calls: these come to their end, and new ones go to a new session', async () => {
    const held: ServerHttp2Stream[] = []
    const server = use(await start((stream, number) => (number <= 2 ? held.push(stream) : ok(stream))))
    const transport = create()
    const running = times(2, () => ask(transport, server.url))
    await until(() => held.length === 2, 'both have arrived')
    held[0]?.respond({ ':status': 200 })
    held[0]?.write('o')
    server.sessions[0]?.goaway(NGHTTP2_NO_ERROR, 2 ** 31 - 1)
    await delay(20)
    expect(await ask(transport, server.url)).toBe('ok')
    expect(server.sessions).toHaveLength(2)
    expect(of(transport, server.url)).toMatchObject({ busy: 2, open: 2 })
    held[0]?.end('k')
    expect(await running[0]).toBe('ok')
    expect(await Promise.all(times(5, () => ask(transport, server.url)))).toEqual(times(5, () => 'ok'))
    expect(server.sessions).toHaveLength(2)
    if (held[1] !== undefined) ok(held[1])
    expect(await running[1]).toBe('ok')
    await until(() => of(transport, server.url).open === 1, 'the old session is closed')
    expect(await ask(transport, server.url)).toBe('ok')
    expect(server.sessions).toHaveLength(2)
  })

  test('before it has taken up a call: that one is sent again', async () => {
    const server = use(
      await start((stream, number) => {
        // 1 is the stream of the first call; Node's server cannot say that it has taken up none.
        if (number === 2) stream.session?.goaway(NGHTTP2_NO_ERROR, 1)
        else ok(stream)
      })
    )
    const transport = create()
    expect(await ask(transport, server.url)).toBe('ok')
    expect(await ask(transport, server.url)).toBe('ok')
    expect(server.streams).toHaveLength(3)
    expect(server.sessions).toHaveLength(2)
    expect(of(transport, server.url)).toMatchObject({ busy: 0, queued: 0 })
  })

  test('and is gone: what it has taken up comes to its end, the rest is tried now and then and not in a loop', async () => {
    const held: ServerHttp2Stream[] = []
    const first = use(await start((stream) => held.push(stream)))
    const relay = createServer()
    const pairs: Socket[] = []
    let attempts = 0
    relay.on('connection', (near) => {
      const far = connect(first.port, '127.0.0.1').on('error', () => {})
      attempts++
      pairs.push(
        near.on('error', () => {}),
        far
      )
      // The first goes through, the others are cut off.
      if (attempts === 1) near.pipe(far).pipe(near)
      else near.destroy()
    })
    await listen(relay)
    const url = `https://127.0.0.1:${portOf(relay)}`
    const transport = create()
    const [taken, refused] = [ask(transport, url), failing(ask(transport, url, { timeouts: { totalMs: 900 } }))]
    await until(() => held.length === 2, 'both have arrived')
    const [stays] = held
    first.sessions[0]?.goaway(NGHTTP2_NO_ERROR, stays?.id ?? 0)
    const error = await refused
    expect(error).toMatchObject({ code: 'timeout' })
    expect(attempts).toBeGreaterThan(1)
    expect(attempts).toBeLessThan(10)
    if (stays !== undefined) ok(stays)
    expect(await taken).toBe('ok')
    for (const socket of pairs) socket.destroy()
    await new Promise((resolve) => relay.close(resolve))
  })
})

describe('a stream the server resets', () => {
  test.each([1, 2])('as refused, %i times, is sent again: it was not processed', async (refusals) => {
    const server = use(await start((stream, number) => (number <= refusals ? stream.close(NGHTTP2_REFUSED_STREAM) : ok(stream))))
    const transport = create()
    expect(await ask(transport, server.url)).toBe('ok')
    expect(server.streams).toHaveLength(refusals + 1)
  })

  test('as refused again and again ends as an error that names it', async () => {
    const server = use(await start((stream) => stream.close(NGHTTP2_REFUSED_STREAM)))
    const error = await failure(ask(create(), server.url), 'network')
    expect(error.details.errno).toBe('REFUSED_STREAM')
    expect(server.streams.length).toBeLessThanOrEqual(4)
  })

  test('as refused is not sent again with a body that can be read only once', async () => {
    const server = use(await start((stream) => stream.close(NGHTTP2_REFUSED_STREAM)))
    async function* body(): AsyncGenerator<Uint8Array> {
      yield Buffer.from('{}')
    }
    await failure(ask(create(), server.url, { body: body() }), 'network')
    expect(server.streams).toHaveLength(1)
  })

  test.each([
    ['CANCEL', NGHTTP2_CANCEL],
    ['INTERNAL_ERROR', NGHTTP2_INTERNAL_ERROR],
    ['ENHANCE_YOUR_CALM', NGHTTP2_ENHANCE_YOUR_CALM]
  ])('as %s is not: it may have been processed; the session goes on', async (errno, code) => {
    const server = use(await start((stream, number) => (number === 1 ? stream.close(code) : ok(stream))))
    const transport = create()
    const error = await failure(ask(transport, server.url), 'network')
    // Node's server answers CANCEL with a plain end.
    if (errno !== 'CANCEL') expect(error.details).toEqual({ phase: 'headers', errno })
    expect(error.retryable).toBe(true)
    expect(server.streams).toHaveLength(1)
    expect(await ask(transport, server.url)).toBe('ok')
    expect(server.sockets).toBe(1)
    expect(of(transport, server.url)).toMatchObject({ busy: 0, queued: 0 })
  })

  test('within the body gives what came, then the error', async () => {
    const server = use(
      await start((stream) => {
        stream.respond({ ':status': 200, 'content-type': 'application/octet-stream' })
        stream.write('half')
        // `close` would write an orderly end first.
        setTimeout(() => stream.destroy(new Error('broken')), 30)
      })
    )
    const transport = create()
    const { body } = await transport.send(post(server.url))
    let received = ''
    const error = await failure(
      (async () => {
        for await (const batch of body) for (const piece of batch) received += Buffer.from(piece).toString()
      })(),
      'network'
    )
    expect(received).toBe('half')
    expect(error.details).toEqual({ phase: 'body', errno: 'INTERNAL_ERROR' })
  })
})

describe('a session that is killed', () => {
  test('fails all its calls, none is sent again without retries, and the next goes to a new one', async () => {
    const server = use(await start((stream, number) => number > 5 && ok(stream)))
    const transport = create()
    const calls = times(5, () => failure(ask(transport, server.url), 'network'))
    await until(() => server.streams.length === 5, 'all have arrived')
    server.sessions[0]?.destroy()
    for (const error of await Promise.all(calls)) expect(error.retryable).toBe(true)
    expect(server.streams).toHaveLength(5)
    expect(of(transport, server.url)).toMatchObject({ busy: 0, queued: 0 })
    expect(await ask(transport, server.url)).toBe('ok')
    expect(server.streams).toHaveLength(6)
    expect(of(transport, server.url)).toMatchObject({ opened: 2, open: 1, busy: 0 })
  })

  test('is made good by retries', async () => {
    const server = use(await start((stream, number) => (number <= 5 ? number === 5 && stream.session?.destroy() : ok(stream))))
    const transport = create({ retry: { baseMs: 1 } })
    expect(await Promise.all(times(5, () => ask(transport, server.url)))).toEqual(times(5, () => 'ok'))
    expect(server.streams).toHaveLength(10)
    expect(server.sockets).toBe(2)
  })

  test('while it is idle is not noticed by 200 calls in a row, whatever the moment', async () => {
    const server = use(
      await start((stream, number) => {
        ok(stream)
        const { session } = stream
        if (number % 4 === 0) stream.on('close', () => setTimeout(() => session?.destroy(), number % 3))
        if (number % 4 === 2) stream.on('close', () => setTimeout(() => session?.close(), number % 3))
      })
    )
    const transport = create()
    for (let call = 0; call < 200; call++) {
      expect(await ask(transport, server.url)).toBe('ok')
      if (call % 3 === 0) await delay(call % 5)
    }
    expect(server.sockets).toBeGreaterThan(10)
    expect(of(transport, server.url)).toMatchObject({ busy: 0, queued: 0 })
  })

  test('by a dead line, which nobody is told of, costs the calls on it their clock; later ones go to a new session', async () => {
    const server = use(await start(ok))
    const relay = use(await startRelay(server.port))
    const transport = create()
    await ask(transport, relay.url)
    relay.freeze()
    const errors = await Promise.all(
      times(3, () => failure(ask(transport, relay.url, { timeouts: { headersMs: 80 } }), 'timeout'))
    )
    for (const error of errors) expect(error.details.clock).toBe('headers')
    expect(await ask(transport, relay.url, { timeouts: { headersMs: 5000 } })).toBe('ok')
    expect(relay.connections()).toBe(2)
    expect(of(transport, relay.url)).toMatchObject({ opened: 2, busy: 0 })
    await until(() => of(transport, relay.url).open === 1, 'the dead one is closed')
  })
})

describe('an abort', () => {
  test('ends its own stream; the others, and the session, go on', async () => {
    const held: ServerHttp2Stream[] = []
    const server = use(await start((stream, number) => (number <= 3 ? held.push(stream) : ok(stream))))
    const transport = create()
    const controller = new AbortController()
    const stays = times(2, () => ask(transport, server.url))
    const leaves = failing(ask(transport, server.url, { signal: controller.signal }))
    await until(() => held.length === 3, 'all have arrived')
    controller.abort('left')
    expect(await leaves).toBe('left')
    await until(() => held.some(({ closed }) => closed), 'the server has seen it')
    expect(held.filter(({ closed }) => closed)).toHaveLength(1)
    expect(of(transport, server.url)).toMatchObject({ busy: 2 })
    for (const stream of held) if (!stream.closed) ok(stream)
    expect(await Promise.all(stays)).toEqual(['ok', 'ok'])
    for (let call = 0; call < 50; call++) {
      const one = new AbortController()
      setTimeout(() => one.abort('left'), call % 2)
      expect(['ok', 'left']).toContain(
        await ask(transport, server.url, { signal: one.signal }).catch((reason: unknown) => reason)
      )
    }
    expect(await ask(transport, server.url)).toBe('ok')
    expect(server.sockets).toBe(1)
    expect(of(transport, server.url)).toMatchObject({ opened: 1, busy: 0, queued: 0 })
  })

  test('of a body leaves the session to the next call', async () => {
    const server = use(
      await start((stream, number) => {
        if (number > 20) return ok(stream)
        stream.respond({ ':status': 200, 'content-type': 'text/event-stream' })
        stream.write('data: {"choices":[{"delta":{"content":"x"}}]}\n\n')
      })
    )
    const transport = create()
    for (let call = 0; call < 20; call++) {
      const { body } = await transport.send(post(server.url))
      for await (const _ of body) break
    }
    expect(await ask(transport, server.url)).toBe('ok')
    expect(server.sockets).toBe(1)
    await until(() => server.streams.slice(0, 20).every(({ closed }) => closed), 'the server has seen all of them')
  })

  test('of the one whose socket is being opened leaves the opening to the next', async () => {
    let handshakes = 0
    const silent = createServer((socket) => void (handshakes++, socket.on('error', () => {}).resume()))
    await listen(silent)
    const url = `https://127.0.0.1:${portOf(silent)}`
    const transport = create()
    const controllers = times(3, () => new AbortController())
    const calls = controllers.map(({ signal }) => failing(ask(transport, url, { signal })))
    await until(() => handshakes === 1, 'the first is connecting')
    await delay(20)
    expect(handshakes).toBe(1)
    controllers[0]?.abort('left')
    await until(() => handshakes === 2, 'the second is connecting')
    for (const controller of controllers) controller.abort('left')
    expect(await Promise.all(calls)).toEqual(['left', 'left', 'left'])
    expect(of(transport, url)).toMatchObject({ busy: 0, queued: 0 })
    await new Promise((resolve) => silent.close(resolve))
  })
})

test('behind a first connection that fails, the others do not fail one by one', async () => {
  const silent = createServer((socket) => void socket.on('error', () => {}).resume())
  await listen(silent)
  const url = `https://127.0.0.1:${portOf(silent)}`
  const transport = create({ timeouts: { connectMs: 150 } })
  const startedAt = performance.now()
  const errors = await Promise.all(times(30, () => failure(ask(transport, url), 'timeout')))
  for (const error of errors) expect(error.details.clock).toBe('connect')
  // One by one it would be 4,500.
  expect(performance.now() - startedAt).toBeLessThan(2000)
  await new Promise((resolve) => silent.close(resolve))
})

describe('a warm session', () => {
  test('is used by the first calls', async () => {
    const server = use(await start((stream) => void setTimeout(ok, 5, stream)))
    const transport = create()
    await transport.warm(server.url)
    expect(of(transport, server.url)).toMatchObject({ opened: 1, open: 1, busy: 0, requests: 0 })
    await delay(30)
    expect(await Promise.all(times(20, () => ask(transport, server.url)))).toEqual(times(20, () => 'ok'))
    expect(server.sockets).toBe(1)
    expect(of(transport, server.url)).toMatchObject({ opened: 1, requests: 20, reused: 20 })
  })

  test.each<[string, (session: ServerHttp2Session | undefined) => void]>([
    ['ends', (session) => session?.close()],
    ['kills', (session) => session?.destroy()]
  ])('that the server %s is replaced, and the caller does not notice', async (_, end) => {
    const server = use(await start(ok))
    const transport = create()
    await transport.warm(server.url)
    await until(() => server.sessions.length === 1, 'the session stands')
    end(server.sessions[0])
    expect(await ask(transport, server.url)).toBe('ok')
  })

  test('there may be several, one more where the server speaks HTTP/1.1', async () => {
    const server = use(await start(ok))
    const transport = create()
    await transport.warm(server.url, { connections: 3 })
    expect(of(transport, server.url)).toMatchObject({ opened: 3, open: 3, busy: 0 })
  })

  test('and an idle one keep no process alive', async () => {
    const server = use(await start(ok))
    const child = use(
      run(`
        import { createTransport } from '@millrace/transport'
        const url = ${JSON.stringify(server.url)}
        const transport = createTransport({ http2: true, ca: ${JSON.stringify(certificate.cert)} })
        await transport.warm(url, { connections: 2 })
        await (await transport.send({ method: 'POST', url, headers: {}, body: '{}' })).body.text()
        console.log(transport.stats().origins[url].open)
      `)
    )
    expect(await child.line()).toBe('2')
    const startedAt = performance.now()
    expect(await child.ended).toBe(0)
    expect(performance.now() - startedAt).toBeLessThan(3000)
  })
})

describe('the end of a session', () => {
  test('comes after keepAliveMs without a call', async () => {
    const server = use(await start(ok))
    const transport = create({ keepAliveMs: 80 })
    await ask(transport, server.url)
    await until(() => server.open === 0, 'it is closed')
    expect(of(transport, server.url)).toMatchObject({ open: 0, busy: 0 })
  })

  test('also comes to a busy one when it is ten minutes old: new calls go elsewhere, so that DNS is followed', async () => {
    const held: ServerHttp2Stream[] = []
    const server = use(await start((stream, number) => (number === 1 ? held.push(stream) : ok(stream))))
    const transport = create({ maxConnections: 1 })
    const long = ask(transport, server.url)
    await until(() => held.length === 1, 'it has arrived')
    await ask(transport, server.url)
    expect(server.sockets).toBe(1)
    const real = performance.now.bind(performance)
    vi.spyOn(performance, 'now').mockImplementation(() => real() + 601_000)
    await ask(transport, server.url)
    await ask(transport, server.url)
    expect(server.sockets).toBe(2)
    expect(of(transport, server.url)).toMatchObject({ open: 2, busy: 1 })
    if (held[0] !== undefined) ok(held[0])
    expect(await long).toBe('ok')
    await until(() => server.open === 1, 'the old one is closed behind its last call')
  })

  test('comes with the transport, behind the calls that run, and leaves nothing', async () => {
    const probe = probeLeaks()
    const server = await start((stream) => void setTimeout(ok, 60, stream))
    const transport = createTransport({ http2: true, ca: certificate.cert, retry: false })
    const calls = times(10, () => ask(transport, server.url))
    await until(() => server.streams.length === 10, 'all have arrived')
    server.sessions[0]?.goaway(NGHTTP2_NO_ERROR, 2 ** 31 - 1)
    await transport.close()
    expect(await Promise.all(calls)).toEqual(times(10, () => 'ok'))
    await until(() => server.open === 0, 'it is closed')
    await server[Symbol.asyncDispose]()
    await probe.check()
  })

  test('comes at the end of the grace, also to one that was told goodbye', async () => {
    const server = use(await start(() => {}))
    const transport = create()
    const calls = times(3, () => failure(ask(transport, server.url), 'closed'))
    await until(() => server.streams.length === 3, 'all have arrived')
    server.sessions[0]?.goaway(NGHTTP2_NO_ERROR, 2 ** 31 - 1)
    await delay(20)
    await transport.close({ graceMs: 30 })
    await Promise.all(calls)
    await until(() => server.open === 0, 'it is closed')
  })
})

test('calls aborted at any moment leave the process running, and the session usable', { timeout: 60_000 }, async () => {
  const server = await start((stream) => {
    const timer = setTimeout(() => {
      if (!stream.destroyed) ok(stream)
    }, Math.random() * 30)
    stream.once('close', () => clearTimeout(timer))
  })
  // In a process of its own: what is feared is one that stands still for ever.
  const child = use(
    run(`
      import { createTransport } from '@millrace/transport'
      const transport = createTransport({ http2: true, ca: ${JSON.stringify(certificate.cert)}, retry: false, breaker: false })
      const ended = { answered: 0, aborted: 0, failed: 0 }
      const send = async (signal) => {
        const response = await transport.send({ method: 'POST', url: '${server.url}', headers: {}, body: 'x', signal })
        return response.body.text()
      }
      await Promise.all(Array.from({ length: 30 }, async () => {
        for (let call = 0; call < 30; call++) {
          const own = new AbortController()
          setTimeout(() => own.abort('enough'), Math.random() * 30)
          await send(own.signal).then(
            (text) => text === 'ok' ? ended.answered++ : ended.failed++,
            (error) => error === 'enough' ? ended.aborted++ : ended.failed++
          )
        }
      }))
      console.log(JSON.stringify({ ...ended, after: await send() }))
      await transport.close()
    `)
  )
  const line = await Promise.race([child.line(), delay(45_000, 'stands still')])
  expect(line).not.toBe('stands still')
  const { answered, aborted, failed, after } = JSON.parse(line) as Record<string, number | string>
  expect({ failed, after }).toEqual({ failed: 0, after: 'ok' })
  expect([Number(answered) + Number(aborted), Number(aborted) > 100]).toEqual([900, true])
  expect(await child.ended).toBe(0)
})

test('a refusal beyond its bound gives its place back once', async () => {
  const server = await start((stream, number) => {
    stream.respond({ ':status': number <= 3 ? 500 : 200 })
    if (number <= 3) stream.end('x'.repeat(200_000))
    else setTimeout(() => stream.end('ok'), 300)
  })
  const transport = create({ maxErrorBytes: 1000, maxConnections: 1 })
  for (let refusal = 0; refusal < 3; refusal++) {
    const { body } = await transport.send(post(server.url))
    expect(await body.text()).toBe('x'.repeat(1000))
  }
  const calls = times(110, () => ask(transport, server.url))
  await until(() => server.streams.length === 103, 'a hundred have arrived')
  expect(of(transport, server.url)).toMatchObject({ busy: 100, queued: 10 })
  await transport.close({ graceMs: 5000 })
  expect(await Promise.all(calls)).toEqual(times(110, () => 'ok'))
})

test('behind an abort nothing of the body is handed over any more', async () => {
  const server = await start((stream) => {
    stream.respond({ ':status': 200 })
    const timer = setInterval(() => stream.write('x'.repeat(10_000)), 1)
    stream.once('close', () => clearInterval(timer))
  })
  const transport = create()
  for (let call = 0; call < 20; call++) {
    const own = new AbortController()
    const { body } = await transport.send(post(server.url, { signal: own.signal }))
    const reader = body[Symbol.asyncIterator]()
    await reader.next()
    own.abort('enough')
    await delay(10)
    await expect(reader.next()).rejects.toBe('enough')
  }
})
