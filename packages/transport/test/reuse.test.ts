import { createServer as createHttpsServer } from 'node:https'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { createServer as createTlsServer } from 'node:tls'
import { isMillraceError, linkAbort, MillraceError, startDeadline } from '@millrace/core'
import {
  createCertificate,
  type FaultConnection,
  probeLeaks,
  responseHead,
  seededRandom,
  startFaultServer
} from '@millrace/testkit'
import { createTransport, type OriginStats, type Transport, type TransportOptions } from '@millrace/transport'
import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { createPool } from '../src/pool.ts'
import { ask, failing, failure, post, run, times } from './calls.ts'
import { json, serve, until } from './serve.ts'

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
const of = (transport: Transport, url: string): OriginStats => {
  const found = transport.stats().origins[url]
  if (found === undefined) throw new Error('nothing has been asked of this origin')
  const { breaker: _, breakerOpened: _opened, breakerRejected: _rejected, ...stats } = found
  return stats
}

const answer = `${responseHead(200, { 'content-length': 2 })}ok`
const certificate = createCertificate()

/** A server of ours whose requests are answered when the test says so. */
async function startHeld(): Promise<{ url: string; paths: string[]; peak: () => number; next: () => Promise<void> }> {
  const held: (() => void)[] = []
  const paths: string[] = []
  let now = 0
  let peak = 0
  const server = use(
    await serve((request, response) => {
      peak = Math.max(peak, ++now)
      paths.push(request.url ?? '')
      held.push(() => {
        now--
        response.end('ok')
      })
    })
  )
  return {
    url: server.url,
    paths,
    peak: () => peak,
    async next() {
      await until(() => held.length > 0, 'a request has arrived')
      held.shift()?.()
    }
  }
}

/** An https server, and how many sockets it saw. */
async function startSecure(): Promise<{ url: string; sockets: () => number }> {
  let sockets = 0
  const server = createHttpsServer(certificate, (request, response) => {
    request.resume().on('end', () => response.end('ok'))
  })
  server.on('secureConnection', () => sockets++)
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
  use({
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    }
  })
  return { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, sockets: () => sockets }
}

describe('one after the other', () => {
  test('1,000 calls use exactly one socket, over http', async () => {
    const server = use(await serve((_, response) => response.end('ok')))
    const transport = create()
    for (let call = 0; call < 1000; call++) expect(await ask(transport, server.url)).toBe('ok')
    expect(server.sockets).toBe(1)
    expect(of(transport, server.url)).toEqual({ opened: 1, open: 1, busy: 0, queued: 0, requests: 1000, reused: 999 })
    expect(transport.stats().resent).toBe(0)
  })

  test('1,000 calls use exactly one socket, over https', async () => {
    const server = await startSecure()
    const transport = create({ ca: certificate.cert })
    for (let call = 0; call < 1000; call++) expect(await ask(transport, server.url)).toBe('ok')
    expect(server.sockets()).toBe(1)
    expect(of(transport, server.url)).toEqual({ opened: 1, open: 1, busy: 0, queued: 0, requests: 1000, reused: 999 })
  })
})

describe('at a time', () => {
  test('1,000 calls are all served over no more sockets than allowed, and these are reused', async () => {
    let peak = 0
    const server = use(
      await serve((_, response) => {
        peak = Math.max(peak, server.open)
        setImmediate(() => response.end('ok'))
      })
    )
    const transport = create({ maxConnections: 16 })
    const answers = await Promise.all(times(1000, () => ask(transport, server.url)))
    expect(new Set(answers)).toEqual(new Set(['ok']))
    expect(peak).toBe(16)
    expect(server.sockets).toBe(16)
    expect(of(transport, server.url)).toEqual({ opened: 16, open: 16, busy: 0, queued: 0, requests: 1000, reused: 984 })
  })

  test('the counts are right at each moment', async () => {
    const server = await startHeld()
    const transport = create({ maxConnections: 2 })
    expect(transport.stats().origins).toEqual({})
    const calls = times(4, () => ask(transport, server.url))
    await until(() => transport.stats().origins[server.url] !== undefined, 'the pool is there')
    expect(of(transport, server.url)).toMatchObject({ busy: 2, queued: 2, reused: 0 })
    await until(() => server.paths.length === 2, 'two have arrived')
    expect(of(transport, server.url)).toEqual({ opened: 2, open: 2, busy: 2, queued: 2, requests: 2, reused: 0 })
    await server.next()
    await until(() => server.paths.length === 3, 'the third has arrived')
    expect(of(transport, server.url)).toEqual({ opened: 2, open: 2, busy: 2, queued: 1, requests: 3, reused: 1 })
    for (let left = 0; left < 3; left++) await server.next()
    await Promise.all(calls)
    expect(of(transport, server.url)).toEqual({ opened: 2, open: 2, busy: 0, queued: 0, requests: 4, reused: 2 })
    expect(server.peak()).toBe(2)
    await transport.close()
    await until(() => of(transport, server.url).open === 0, 'the sockets are closed')
  })

  test('an unread body keeps its socket busy until it is read or cancelled', async () => {
    const server = use(await serve((_, response) => response.writeHead(200).write('x')))
    const transport = create({ maxConnections: 1 })
    const { body } = await transport.send(post(server.url))
    const waiting = transport.send(post(server.url))
    await delay(20)
    expect(of(transport, server.url)).toMatchObject({ open: 1, busy: 1, queued: 1 })
    body.cancel()
    ;(await waiting).body.cancel()
    expect(of(transport, server.url)).toMatchObject({ busy: 0, queued: 0, opened: 2 })
  })
})

describe('the queue', () => {
  test('is first come, first served, also when some of those who wait leave', async () => {
    const server = await startHeld()
    const transport = create({ maxConnections: 1 })
    const leave = new AbortController()
    const calls = times(30, (at) =>
      ask(transport, `${server.url}/${at}`, at % 3 === 2 ? { signal: leave.signal } : {}).catch((error: unknown) => error)
    )
    leave.abort('left')
    for (let at = 0; at < 20; at++) await server.next()
    const answers = await Promise.all(calls)
    expect(answers).toEqual(times(30, (at) => (at % 3 === 2 ? 'left' : 'ok')))
    expect(server.paths).toEqual(times(30, (at) => `/${at}`).filter((_, at) => at % 3 !== 2))
  })

  test('is full at its bound: the next one fails at once, and one more fits when one has left', async () => {
    const server = await startHeld()
    const transport = create({ maxConnections: 1, maxQueue: 2 })
    const leave = new AbortController()
    const calls = [
      ask(transport, server.url),
      failing(ask(transport, server.url, { signal: leave.signal })),
      ask(transport, server.url)
    ]
    const refused = await failure(ask(transport, server.url), 'queue-full')
    expect(refused.details).toEqual({ limit: 2 })
    expect(refused.retryable).toBe(true)
    leave.abort('left')
    expect(await calls[1]).toBe('left')
    calls.push(ask(transport, server.url))
    for (let at = 0; at < 3; at++) await server.next()
    expect(await Promise.all(calls)).toEqual(['ok', 'left', 'ok', 'ok'])
  })

  test.each(['totalMs', 'a deadline held further out'])(
    'waiting counts against %s, whose error names the queue',
    async (held) => {
      const server = await startHeld()
      const transport = create({ maxConnections: 1 })
      const first = ask(transport, server.url)
      await until(() => server.paths.length === 1, 'the first has arrived')
      const linked = linkAbort()
      using deadline = held === 'totalMs' ? undefined : startDeadline('total', 60, (error) => linked.abort(error))
      const bare = performance.now()
      const more = deadline === undefined ? { timeouts: { totalMs: 60 } } : { deadline, signal: linked.signal }
      const [error, sleptMs] = await Promise.all([
        failure(ask(transport, server.url, more), 'timeout'),
        delay(60).then(() => performance.now() - bare)
      ])
      expect(error.details).toMatchObject({ clock: 'queue', limitMs: 60 })
      expect(error.details.elapsedMs).toBeLessThan(sleptMs + 50)
      expect(of(transport, server.url)).toMatchObject({ busy: 1, queued: 0 })
      await server.next()
      await first
      expect(server.paths).toHaveLength(1)
    }
  )

  test('whoever has been let in is held to the total clock again', async () => {
    const server = await startHeld()
    const transport = create({ maxConnections: 1 })
    const first = ask(transport, server.url)
    await until(() => server.paths.length === 1, 'the first has arrived')
    const second = failure(ask(transport, server.url, { timeouts: { totalMs: 150 } }), 'timeout')
    await server.next()
    await first
    expect((await second).details.clock).toBe('total')
  })

  test('a place that is handed over in the moment its taker leaves goes to the next', async () => {
    const server = use(await serve((_, response) => response.writeHead(200).write('x')))
    const transport = create({ maxConnections: 1 })
    const { body } = await transport.send(post(server.url))
    const leave = new AbortController()
    const second = failing(transport.send(post(server.url, { signal: leave.signal })))
    const third = transport.send(post(server.url))
    leave.abort('left')
    body.cancel()
    expect(await second).toBe('left')
    ;(await third).body.cancel()
    expect(of(transport, server.url)).toMatchObject({ busy: 0, queued: 0 })
  })

  test('whatever is taken, aborted and broken off in it, no place is lost', async () => {
    const seed = 20_261_123
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 4 }),
        fc.array(
          fc.record({
            path: fc.constantFrom('/ok', '/reset', '/close', '/half', '/never'),
            abortMs: fc.option(fc.integer({ min: 0, max: 12 }), { nil: undefined }),
            waitMs: fc.integer({ min: 0, max: 2 })
          }),
          { minLength: 1, maxLength: 25 }
        ),
        async (maxConnections, calls) => {
          await using server = await startFaultServer(async (connection) => {
            for (;;) {
              const { path } = await connection.request()
              if (path === '/reset') connection.reset()
              else if (path === '/half') await connection.write(`${responseHead(200, { 'content-length': 9 })}ha`)
              else if (path !== '/never') await connection.write(answer)
              if (path === '/close') return connection.end()
            }
          })
          await using transport = createTransport({ maxConnections, retry: false, breaker: false })
          const outcomes = calls.map(async ({ path, abortMs, waitMs }, at) => {
            await delay(waitMs * at)
            const controller = new AbortController()
            // Those that would have no end are given one.
            const endMs = abortMs ?? (path === '/half' || path === '/never' ? 30 : undefined)
            const timer = endMs === undefined ? undefined : setTimeout(() => controller.abort('left'), endMs)
            const outcome = await ask(transport, server.url + path, { signal: controller.signal }).catch(
              (error: unknown) => error
            )
            clearTimeout(timer)
            if (outcome !== 'ok' && outcome !== 'left' && !isMillraceError(outcome, 'network')) throw outcome
          })
          await Promise.all(outcomes)
          expect(of(transport, server.url)).toMatchObject({ busy: 0, queued: 0 })
          await Promise.all(times(maxConnections * 3, () => ask(transport, `${server.url}/ok`)))
          await until(() => server.open <= maxConnections, 'what was broken off is closed')
          expect(of(transport, server.url)).toMatchObject({ busy: 0, queued: 0 })
        }
      ),
      { seed, numRuns: 60 }
    )
  })
})

describe('a server that closes idle sockets at will', () => {
  /** Answers the first request of each socket, then closes it at some moment, also with the next request in its hands. */
  const closing =
    (random: () => number) =>
    async (connection: FaultConnection): Promise<void> => {
      for (let served = 0; ; served++) {
        const request = connection.request()
        request.catch(() => {}) // where it is left alone below
        if (served > 0) {
          const at = random()
          if (at < 0.2) return connection.end()
          if (at < 0.3) return connection.reset()
          if (at < 0.4) {
            await connection.pause(random() * 3)
            return connection.end()
          }
          if (at < 0.6) {
            await request
            return random() < 0.5 ? connection.end() : connection.reset()
          }
        }
        await request
        await connection.write(answer)
      }
    }

  test('is not noticed by 2,000 calls in a row, without any retry', async () => {
    const server = use(await startFaultServer(closing(seededRandom(1))))
    const transport = create()
    for (let call = 0; call < 2000; call++) expect(await ask(transport, server.url)).toBe('ok')
    const { resent } = transport.stats()
    expect(resent).toBeGreaterThan(100)
    expect(of(transport, server.url)).toMatchObject({ busy: 0, queued: 0, requests: 2000 + resent })
  })

  test.each([512, 5])('nor by 2,000 calls, 50 at a time, over %i sockets', async (maxConnections) => {
    const server = use(await startFaultServer(closing(seededRandom(2))))
    const transport = create({ maxConnections })
    let left = 2000
    const caller = async (): Promise<void> => {
      while (left-- > 0) expect(await ask(transport, server.url)).toBe('ok')
    }
    await Promise.all(times(50, caller))
    expect(transport.stats().resent).toBeGreaterThan(100)
    expect(of(transport, server.url)).toMatchObject({ busy: 0, queued: 0 })
  })

  test('a request that is sent again is the next to get a place, whatever the bound of the queue', async () => {
    const seen: string[] = []
    const server = use(
      await startFaultServer(async (connection) => {
        for (let served = 0; ; served++) {
          const { path } = await connection.request()
          if (served > 0) {
            await connection.pause(20)
            return connection.reset()
          }
          seen.push(path)
          await connection.write(answer)
        }
      })
    )
    const transport = create({ maxConnections: 1, maxQueue: 2 })
    await ask(transport, `${server.url}/0`)
    const answers = await Promise.all([1, 2, 3].map((at) => ask(transport, `${server.url}/${at}`)))
    expect(answers).toEqual(['ok', 'ok', 'ok'])
    // The second had been given the place of the first in the moment it was free.
    expect(seen).toEqual(['/0', '/2', '/1', '/3'])
    expect(server.connections).toBe(4)
  })
})

describe('a broken connection', () => {
  /** Answers one request, then does something else with the second on the same socket. */
  const secondTime = (what: (connection: FaultConnection) => void | Promise<void>) => {
    const requests: string[] = []
    const script = async (connection: FaultConnection): Promise<void> => {
      requests.push((await connection.request()).path)
      await connection.write(answer)
      requests.push((await connection.request()).path)
      await what(connection)
    }
    return { script, requests }
  }

  test.each<[string, (connection: FaultConnection) => void]>([
    ['reset', (connection) => connection.reset()],
    ['closed', (connection) => connection.end()]
  ])('a reused socket that is %s before any byte of the response is made good once, for free', async (_, end) => {
    const { script, requests } = secondTime(end)
    const server = use(await startFaultServer(script))
    const transport = create()
    expect(await ask(transport, `${server.url}/1`)).toBe('ok')
    expect(await ask(transport, `${server.url}/2`)).toBe('ok')
    expect(requests).toEqual(['/1', '/2', '/2'])
    expect(transport.stats()).toMatchObject({ resent: 1, retries: 0 })
  })

  test.each(['H', 'HTTP/1.1 200 OK\r\n', 'HTTP/1.1 200 OK\r\nx-a: b\r\n', 'HTTP/1.1 103 Early Hints\r\n\r\n'])(
    'a reused socket that is reset behind %j is not: the request may have been answered',
    async (bytes) => {
      const { script, requests } = secondTime(async (connection) => {
        await connection.write(bytes)
        await connection.pause(20)
        connection.reset()
      })
      const server = use(await startFaultServer(script))
      const transport = create()
      await ask(transport, `${server.url}/1`)
      const error = await failure(ask(transport, `${server.url}/2`), 'network')
      expect(error.details.phase).toBe('headers')
      expect(requests).toEqual(['/1', '/2'])
      expect(transport.stats().resent).toBe(0)
    }
  )

  test.each(['', 'HTTP/1.1 200 OK\r\n'])('the same over TLS, behind %j', async (bytes) => {
    let requests = 0
    const server = createTlsServer(certificate, (socket) => {
      let served = 0
      socket
        .on('error', () => {})
        .on('data', () => {
          requests++
          if (served++ === 0) return void socket.write(answer)
          if (bytes !== '') socket.write(bytes)
          setTimeout(() => socket.destroy(), 20)
        })
    })
    await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
    use({ [Symbol.asyncDispose]: async () => void server.close() })
    const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`
    const transport = create({ ca: certificate.cert })
    await ask(transport, url)
    const outcome = await ask(transport, url).catch((error: unknown) => error)
    if (bytes === '') expect(outcome).toBe('ok')
    else expect(isMillraceError(outcome, 'network')).toBe(true)
    expect(requests).toBe(bytes === '' ? 3 : 2)
  })

  test('a fresh socket that is reset behind the request is not made good for free', async () => {
    let requests = 0
    const server = use(
      await startFaultServer(async (connection) => {
        await connection.request()
        requests++
        connection.reset()
      })
    )
    const error = await failure(ask(create(), server.url), 'network')
    expect(error.details.phase).toBe('headers')
    expect(error.retryable).toBe(true)
    expect(requests).toBe(1)
  })

  test('a body that can be read only once is never sent again, also not with retries', async () => {
    const { script, requests } = secondTime((connection) => connection.reset())
    const server = use(await startFaultServer(script))
    const transport = use(createTransport({ retry: { baseMs: 1, maxMs: 1 } }))
    await ask(transport, `${server.url}/1`)
    let read = 0
    async function* body(): AsyncGenerator<Uint8Array> {
      read++
      yield Buffer.from('{}')
    }
    await failure(ask(transport, `${server.url}/2`, { body: body() }), 'network')
    expect(requests).toEqual(['/1', '/2'])
    expect(read).toBe(1)
    expect(transport.stats()).toMatchObject({ resent: 0, retries: 0 })
  })

  test('with retries, the free one is not counted as one of them', async () => {
    const { script } = secondTime((connection) => connection.reset())
    const server = use(await startFaultServer(script))
    const transport = use(createTransport())
    await ask(transport, server.url)
    const response = await transport.send(post(server.url))
    expect(response.attempts).toBe(1)
    expect(transport.stats()).toMatchObject({ resent: 1, retries: 0 })
  })
})

describe('an idle socket', () => {
  const polite = (headers: Readonly<Record<string, string>>) =>
    startFaultServer(async (connection) => {
      for (;;) {
        await connection.request()
        await connection.write(`${responseHead(200, { 'content-length': 2, ...headers })}ok`)
      }
    })

  test('is closed after keepAliveMs', async () => {
    const server = use(await polite({}))
    const transport = create({ keepAliveMs: 100 })
    await ask(transport, server.url)
    await delay(30)
    await ask(transport, server.url)
    expect(server.connections).toBe(1)
    const startedAt = performance.now()
    await until(() => server.open === 0, 'it is closed')
    expect(performance.now() - startedAt).toBeGreaterThan(60)
    expect(of(transport, server.url)).toMatchObject({ open: 0, busy: 0 })
    expect(await ask(transport, server.url)).toBe('ok')
    expect(transport.stats().resent).toBe(0)
  })

  test('is closed earlier where the server hints at less, two seconds before it would', async () => {
    const server = use(await polite({ 'keep-alive': 'timeout=3' }))
    const transport = create()
    await ask(transport, server.url)
    await ask(transport, server.url)
    expect(server.connections).toBe(1)
    await until(() => server.open === 0, 'it is closed')
  })

  test('is not kept longer where the server hints at more', async () => {
    const server = use(await polite({ 'keep-alive': 'timeout=600' }))
    await ask(create({ keepAliveMs: 100 }), server.url)
    await until(() => server.open === 0, 'it is closed')
  })

  test.each<Readonly<Record<string, string>>>([{ 'keep-alive': 'timeout=1' }, { connection: 'close' }])(
    'is not kept at all behind %j',
    async (headers) => {
      const server = use(await polite(headers))
      const transport = create()
      for (let call = 0; call < 5; call++) await ask(transport, server.url)
      await Promise.all(times(5, () => ask(transport, server.url)))
      expect(server.connections).toBe(10)
      await until(() => server.open === 0, 'they are closed')
      expect(transport.stats().resent).toBe(0)
      expect(of(transport, server.url)).toMatchObject({ opened: 10, requests: 10, reused: 0, busy: 0, queued: 0 })
    }
  )

  test('is kept as long as a timer can wait with keepAliveMs: Infinity', async () => {
    const server = use(await polite({}))
    const transport = create({ keepAliveMs: Number.POSITIVE_INFINITY })
    await ask(transport, server.url)
    await delay(30)
    await ask(transport, server.url)
    expect(server.connections).toBe(1)
  })

  test('older than ten minutes is not used again, so that a changed DNS record is followed', async () => {
    const server = use(await polite({}))
    const transport = create()
    await ask(transport, server.url)
    const real = performance.now.bind(performance)
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => real() + 599_000)
    await ask(transport, server.url)
    expect(server.connections).toBe(1)
    clock.mockImplementation(() => real() + 601_000)
    await ask(transport, server.url)
    await ask(transport, server.url)
    expect(server.connections).toBe(2)
    await until(() => server.open === 1, 'the old one is closed')
    expect(of(transport, server.url)).toMatchObject({ opened: 2, open: 1, busy: 0 })
  })
})

describe('warm', () => {
  test('opens sockets ahead, which the first calls use', async () => {
    const server = await startHeld()
    const transport = create()
    await transport.warm(`${server.url}/any/path`, { connections: 3 })
    expect(of(transport, server.url)).toEqual({ opened: 3, open: 3, busy: 0, queued: 0, requests: 0, reused: 0 })
    const calls = times(3, () => ask(transport, server.url))
    for (let call = 0; call < 3; call++) await server.next()
    await Promise.all(calls)
    expect(of(transport, server.url)).toMatchObject({ opened: 3, requests: 3, reused: 3 })
  })

  test('over TLS the handshake is done, and nothing of a request is sent', async () => {
    const server = await startSecure()
    const transport = create({ ca: certificate.cert })
    await transport.warm(server.url)
    await until(() => server.sockets() === 1, 'the server has seen the end of the handshake')
    expect(await ask(transport, server.url)).toBe('ok')
    expect(server.sockets()).toBe(1)
  })

  test('sends no byte', async () => {
    let received = 0
    const server = createServer((socket) => void socket.on('data', () => received++))
    await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
    use({ [Symbol.asyncDispose]: async () => void server.close() })
    const transport = create()
    await transport.warm(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, { connections: 2 })
    await delay(50)
    expect(received).toBe(0)
    await transport.close()
  })

  test('counts what is open already, and keeps to maxConnections', async () => {
    const server = use(await serve((_, response) => response.end('ok')))
    const transport = create({ maxConnections: 2 })
    await ask(transport, server.url)
    await transport.warm(server.url, { connections: 10 })
    expect(server.sockets).toBe(2)
    await transport.warm(server.url)
    expect(server.sockets).toBe(2)
  })

  test.each<[string, (connection: FaultConnection) => void | Promise<void>]>([
    ['at once', (connection) => connection.end()],
    ['with a reset', (connection) => connection.pause(10).then(() => connection.reset())],
    [
      'with bytes nobody asked for',
      (connection) => connection.write('HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n')
    ],
    ['as the first request is written', async (connection) => (await connection.request(), connection.end())]
  ])('a socket that the server closes %s is replaced, and the caller does not notice', async (_, end) => {
    const server = use(
      await startFaultServer(async (connection) => {
        if (connection.number <= 2) return end(connection)
        for (;;) {
          await connection.request()
          await connection.write(answer)
        }
      })
    )
    const transport = create()
    await transport.warm(server.url, { connections: 2 })
    await delay(30)
    expect(await Promise.all([ask(transport, server.url), ask(transport, server.url)])).toEqual(['ok', 'ok'])
    expect(of(transport, server.url)).toMatchObject({ opened: 4, open: 2, busy: 0 })
  })

  test('an idle warm socket is closed after keepAliveMs', async () => {
    const server = use(await serve(json({})))
    const transport = create({ keepAliveMs: 100 })
    await transport.warm(server.url, { connections: 2 })
    await until(() => server.open === 0, 'they are closed')
    expect(of(transport, server.url)).toMatchObject({ opened: 2, open: 0 })
  })

  test('rejects with network where nobody listens, with timeout where nobody answers, and leaves nothing behind', async () => {
    const probe = probeLeaks()
    const silent = createServer((socket: Socket) => void socket.on('error', () => {}).resume())
    await new Promise<void>((resolve) => void silent.listen(0, '127.0.0.1', resolve))
    const { port } = silent.address() as AddressInfo
    const transport = createTransport({ timeouts: { connectMs: 60 }, proxy: false })
    const stalled = await failure(transport.warm(`https://127.0.0.1:${port}`, { connections: 3 }), 'timeout')
    expect(stalled.details).toMatchObject({ clock: 'connect', limitMs: 60 })
    await new Promise((resolve) => silent.close(resolve))
    const refused = await failure(transport.warm(`http://127.0.0.1:${port}`, { connections: 3 }), 'network')
    expect(refused.details).toEqual({ phase: 'connect', errno: 'ECONNREFUSED' })
    for (const stats of Object.values(transport.stats().origins)) expect(stats).toMatchObject({ open: 0, busy: 0, queued: 0 })
    await transport.close()
    await probe.check()
  })

  test('ends with the transport, also on its way, and is refused behind it', async () => {
    const silent = createServer((socket: Socket) => void socket.on('error', () => {}).resume())
    await new Promise<void>((resolve) => void silent.listen(0, '127.0.0.1', resolve))
    const url = `https://127.0.0.1:${(silent.address() as AddressInfo).port}`
    const transport = createTransport()
    const warming = failure(transport.warm(url, { connections: 2 }), 'closed')
    await transport.close()
    await warming
    expect((await failure(transport.warm(url), 'closed')).retryable).toBe(false)
    await new Promise((resolve) => silent.close(resolve))
  })
})

describe('closing', () => {
  test('lets those who run and those who wait come to their end, and refuses new ones', async () => {
    const server = await startHeld()
    const transport = createTransport({ maxConnections: 1 })
    const calls = times(3, () => ask(transport, server.url))
    await until(() => server.paths.length === 1, 'the first has arrived')
    const closing = transport.close()
    await failure(ask(transport, server.url), 'closed')
    for (let call = 0; call < 3; call++) await server.next()
    expect(await Promise.all(calls)).toEqual(['ok', 'ok', 'ok'])
    await closing
    expect(transport.close()).toBe(transport.close())
  })

  test('a call that began before it is still sent again when its idle socket is gone', async () => {
    const server = use(
      await startFaultServer(async (connection) => {
        await connection.request()
        await connection.write(answer)
        await connection.request()
        await connection.pause(30)
        connection.reset()
      })
    )
    const transport = createTransport({ retry: false })
    await ask(transport, server.url)
    const second = ask(transport, server.url)
    await delay(10)
    const closing = transport.close()
    expect(await second).toBe('ok')
    await closing
  })

  test('ends all there is when the grace is over: queued, connecting, waiting and within the body', async () => {
    const probe = probeLeaks()
    const silent = createServer((socket: Socket) => void socket.on('error', () => {}).resume())
    await new Promise<void>((resolve) => void silent.listen(0, '127.0.0.1', resolve))
    const server = await serve((request, response) => {
      if (request.url === '/body') response.writeHead(200).write('x')
    })
    const transport = createTransport({ maxConnections: 2, retry: false })
    const { body } = await transport.send(post(`${server.url}/body`))
    const ends = [
      failure(body.text(), 'closed'),
      ...times(3, () => failure(ask(transport, server.url), 'closed')),
      failure(ask(transport, `https://127.0.0.1:${(silent.address() as AddressInfo).port}`), 'closed')
    ]
    await until(() => server.requests === 2, 'both have arrived')
    await transport.close({ graceMs: 40 })
    await Promise.all(ends)
    for (const stats of Object.values(transport.stats().origins)) expect(stats).toMatchObject({ busy: 0, queued: 0 })
    await until(() => server.open === 0, 'the sockets are closed')
    await server[Symbol.asyncDispose]()
    await new Promise((resolve) => silent.close(resolve))
    await probe.check()
  })

  test('an origin that has been closed opens no socket any more, for whoever comes', async () => {
    const pool = createPool({ maxConnections: 1, maxQueue: 1, keepAliveMs: 1000, http2: false, ca: undefined, proxy: false })
    const origin = pool.origin('http://127.0.0.1:9')
    const error = new MillraceError('closed', 'the transport is closed', { details: {} })
    pool.destroy(error)
    expect(() => origin.take()).toThrow(error)
    expect(() => origin.takeFresh()).toThrow(error)
    expect(await failing(origin.warm(1, 1000, new AbortController().signal))).toBe(error)
    await pool.drained()
  })

  test.each([
    ['idle sockets', 'await (await transport.send({ method: "GET", url, headers: {} })).body.text()'],
    ['warm sockets', 'await transport.warm(url, { connections: 3 })'],
    ['closed ones', 'await transport.warm(url); await transport.close()']
  ])('a process with %s in its pool ends by itself', async (_, what) => {
    const server = use(await serve(json({})))
    const child = use(
      run(`
        import { createTransport } from '@millrace/transport'
        const url = ${JSON.stringify(server.url)}
        const transport = createTransport()
        ${what}
        console.log('done')
      `)
    )
    expect(await child.line()).toBe('done')
    const startedAt = performance.now()
    expect(await child.ended).toBe(0)
    expect(performance.now() - startedAt).toBeLessThan(3000)
  })
})

test('a thousand origins are remembered, and those in use', async () => {
  const server = await startHeld()
  const { port } = new URL(server.url)
  const transport = create({ timeouts: { connectMs: 2000 } })
  const held = ask(transport, server.url)
  await until(() => server.paths.length === 1, 'the first has arrived')
  for (let host = 0; host < 1100; host++) {
    const ended = AbortSignal.abort('enough')
    await transport.send({ ...post(`http://127.1.${host >> 8}.${host & 255}:${port}`), signal: ended }).catch(() => {})
    await transport.warm(`http://127.1.${host >> 8}.${host & 255}:1`).catch(() => {})
  }
  expect(Object.keys(transport.stats().origins).length).toBeLessThanOrEqual(1000)
  await server.next()
  expect(await held).toBe('ok')
})
