import { getEventListeners } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { channels, type HttpRequest, isMillraceError, type Layer, MillraceError, type Send } from '@millrace/core'
import { createTransport } from '@millrace/transport'
import { afterEach, describe, expect, test } from 'vitest'
import { json, serve, until } from './serve.ts'

const post = (url: string, more: Partial<HttpRequest> = {}): HttpRequest => ({
  method: 'POST',
  url,
  headers: {},
  body: '{}',
  ...more
})
const failing = async (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => expect.fail('it should have failed'),
    (error: unknown) => error
  )

const open: AsyncDisposable[] = []
const use = <T extends AsyncDisposable>(resource: T): T => {
  open.push(resource)
  return resource
}
afterEach(async () => {
  for (const resource of open.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
})

describe('the pool', () => {
  test('keeps sockets: 200 calls one after the other open at most two', async () => {
    const server = use(await serve(json({ ok: true })))
    const transport = use(createTransport())
    for (let call = 0; call < 200; call++) {
      const response = await transport.send(post(server.url))
      expect(await response.body.text()).toBe('{"ok":true}')
    }
    expect(server.requests).toBe(200)
    expect(server.sockets).toBeLessThanOrEqual(2)
    const stats = transport.stats().origins[server.url]
    expect(stats).toMatchObject({ requests: 200, opened: server.sockets, reused: 200 - server.sockets, busy: 0, queued: 0 })
  })

  test('never opens more sockets than its bound, and serves all who wait', async () => {
    const server = use(await serve((_, response) => void setTimeout(() => response.end('x'), 5)))
    const transport = use(createTransport({ maxConnections: 4 }))
    const answers = await Promise.all(
      Array.from({ length: 100 }, async () => (await transport.send(post(server.url))).body.text())
    )
    expect(answers).toEqual(Array.from({ length: 100 }, () => 'x'))
    expect(server.sockets).toBeLessThanOrEqual(4)
  })

  test('refuses with queue-full when the queue is at its bound', async () => {
    const server = use(await serve(() => {}))
    const transport = use(createTransport({ maxConnections: 1, maxQueue: 1, retry: false }))
    const stop = new AbortController()
    const first = failing(transport.send(post(server.url, { signal: stop.signal })))
    const second = failing(transport.send(post(server.url, { signal: stop.signal })))
    const third = await failing(transport.send(post(server.url)))
    expect(isMillraceError(third, 'queue-full')).toBe(true)
    stop.abort(new Error('enough'))
    await Promise.all([first, second])
    expect(transport.stats().origins[server.url]).toMatchObject({ busy: 0, queued: 0 })
  })
})

describe('failures', () => {
  test('names a refused connection, a name that does not exist, and tells which can be tried again', async () => {
    const transport = use(createTransport({ retry: false }))
    const closed = createServer().listen(0, '127.0.0.1')
    await new Promise((resolve) => closed.once('listening', resolve))
    const { port } = closed.address() as { port: number }
    await new Promise((resolve) => closed.close(resolve))
    const refused = await failing(transport.send(post(`http://127.0.0.1:${port}`)))
    if (!isMillraceError(refused, 'network')) throw refused
    expect(refused.details).toEqual({ phase: 'connect', errno: 'ECONNREFUSED' })
    expect(refused.retryable).toBe(true)
    const unknown = await failing(transport.send(post('http://no-such-host.invalid')))
    if (!isMillraceError(unknown, 'network')) throw unknown
    expect(unknown.details.phase).toBe('dns')
  })

  test('refuses a bad address and a header with a line break before a socket opens, and quotes neither', async () => {
    const server = use(await serve(json({})))
    const transport = use(createTransport())
    for (const url of ['not a url', 'ftp://host/x', 'http://user:secret@host/', '/relative?key=secret']) {
      const error = await failing(transport.send(post(url)))
      expect(isMillraceError(error, 'invalid-request')).toBe(true)
      expect(String(error)).not.toContain('secret')
    }
    const error = await failing(transport.send(post(server.url, { headers: { 'x-a': 'secret\r\nx-b: 1' } })))
    expect(isMillraceError(error, 'invalid-request')).toBe(true)
    expect(String(error)).not.toContain('secret')
    expect(server.requests).toBe(0)
  })

  test('a server that is silent behind the request trips the headers clock, which names itself and closes the socket', async () => {
    const server = use(await serve(() => {}))
    const transport = use(createTransport({ retry: false }))
    const startedAt = performance.now()
    const error = await failing(transport.send(post(server.url, { timeouts: { headersMs: 100 } })))
    if (!isMillraceError(error, 'timeout')) throw error
    expect(error.details).toMatchObject({ clock: 'headers', limitMs: 100 })
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(95)
    await until(() => server.open === 0, 'the socket is closed')
  })

  test('a server that accepts and never speaks TLS trips the connect clock', async () => {
    const silent = createServer().listen(0, '127.0.0.1')
    await new Promise((resolve) => silent.once('listening', resolve))
    const { port } = silent.address() as { port: number }
    const transport = use(createTransport({ retry: false }))
    const error = await failing(transport.send(post(`https://127.0.0.1:${port}`, { timeouts: { connectMs: 100 } })))
    if (!isMillraceError(error, 'timeout')) throw error
    expect(error.details.clock).toBe('connect')
    silent.close()
  })

  test('a body that breaks off is a network error, behind what had arrived', async () => {
    const server = use(
      await serve((_, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        response.write('data: one\n\n')
        setTimeout(() => response.destroy(), 30)
      })
    )
    const transport = use(createTransport({ retry: false }))
    const { body } = await transport.send(post(server.url))
    let received = ''
    const error = await failing(
      (async () => {
        for await (const batch of body) for (const piece of batch) received += Buffer.from(piece).toString()
      })()
    )
    expect(received).toBe('data: one\n\n')
    if (!isMillraceError(error, 'network')) throw error
    expect(error.details.phase).toBe('body')
  })

  test('the total clock covers the queue, the attempts and the body', async () => {
    const server = use(
      await serve((_, response) => {
        response.writeHead(200)
        response.write('x')
      })
    )
    const transport = use(createTransport({ retry: false }))
    const { body } = await transport.send(post(server.url, { timeouts: { totalMs: 150 } }))
    const error = await failing(body.text())
    if (!isMillraceError(error, 'timeout')) throw error
    expect(error.details.clock).toBe('total')
    await until(() => server.open === 0, 'the socket is closed')
  })
})

describe('an abort', () => {
  const reason = new Error('the caller stopped')

  test.each(['before', 'queued', 'waiting', 'in the body', 'before a retry'])(
    '%s rejects with its reason and leaves no listener',
    async (phase) => {
      const server = use(
        await serve((request, response) => {
          if (request.url === '/body') response.writeHead(200).write('x')
          if (request.url === '/retry') response.writeHead(429, { 'retry-after': '30' }).end()
        })
      )
      const transport = use(createTransport({ maxConnections: 1 }))
      const controller = new AbortController()
      const { signal } = controller
      if (phase === 'before') controller.abort(reason)
      const blocking = new AbortController()
      const blocker = phase === 'queued' ? failing(transport.send(post(server.url, { signal: blocking.signal }))) : undefined
      const path = phase === 'in the body' ? '/body' : phase === 'before a retry' ? '/retry' : '/'
      const call = failing(transport.send(post(server.url + path, { signal })).then(({ body }) => body.text()))
      setTimeout(() => controller.abort(reason), 60)
      expect(await call).toBe(reason)
      expect(getEventListeners(signal, 'abort')).toHaveLength(0)
      blocking.abort(reason)
      await blocker
      await until(() => server.open === 0 || phase === 'before a retry', 'the socket is closed')
      expect(transport.stats().origins[server.url]?.busy ?? 0).toBe(0)
    }
  )

  test('right behind the call, before anything was sent, is as good as one before it', async () => {
    const server = use(await serve(json({})))
    const transport = use(createTransport())
    const controller = new AbortController()
    const call = failing(transport.send(post(server.url, { signal: controller.signal })))
    controller.abort(reason)
    expect(await call).toBe(reason)
    expect(transport.stats().origins[server.url]).toMatchObject({ busy: 0, requests: 0 })
  })

  test('one signal over a thousand calls leaves no listener and no warning', async () => {
    const server = use(await serve(json({})))
    const transport = use(createTransport())
    const { signal } = new AbortController()
    const warnings: Error[] = []
    const listen = (warning: Error): number => warnings.push(warning)
    process.on('warning', listen)
    for (let round = 0; round < 250; round++) {
      await Promise.all(Array.from({ length: 4 }, async () => (await transport.send(post(server.url, { signal }))).body.text()))
    }
    process.off('warning', listen)
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    expect(warnings).toEqual([])
  })
})

describe('bodies', () => {
  test('an unread body pauses the socket: the server cannot write on', async () => {
    let written = 0
    const server = use(
      await serve((_, response) => {
        const block = Buffer.alloc(64 * 1024)
        const write = (): void => {
          while (written < 100 * 1024 * 1024) {
            written += block.length
            if (!response.write(block)) return void response.once('drain', write)
          }
          response.end()
        }
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        write()
      })
    )
    const transport = use(createTransport())
    const { body } = await transport.send(post(server.url))
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(written).toBeLessThan(20 * 1024 * 1024)
    body.cancel()
    await until(() => server.open === 0, 'the socket is closed')
  })

  test('a response beyond maxResponseBytes is refused and its socket closed', async () => {
    const server = use(await serve((_, response) => response.end('x'.repeat(5000))))
    const transport = use(createTransport({ maxResponseBytes: 1000 }))
    const error = await failing(transport.send(post(server.url)).then(({ body }) => body.text()))
    expect(isMillraceError(error, 'protocol') && error.details.reason).toBe('too-large')
  })

  test('leaving the loop closes the socket', async () => {
    const server = use(await serve((_, response) => void response.writeHead(200).write('x')))
    const transport = use(createTransport())
    const { body } = await transport.send(post(server.url))
    for await (const _ of body) break
    await until(() => server.open === 0, 'the socket is closed')
  })
})

describe('closing', () => {
  test('refuses new calls, lets running ones finish, and is safe twice', async () => {
    const server = use(await serve((_, response) => void setTimeout(() => response.end('late'), 100)))
    const transport = createTransport()
    const running = transport.send(post(server.url)).then(({ body }) => body.text())
    await until(() => server.requests === 1, 'the request has arrived')
    const closing = transport.close()
    expect(isMillraceError(await failing(transport.send(post(server.url))), 'closed')).toBe(true)
    expect(await running).toBe('late')
    await closing
    await transport.close()
    await until(() => server.open === 0, 'idle sockets are closed')
  })

  test('aborts what is still running after the grace', async () => {
    const server = use(await serve(() => {}))
    const transport = createTransport({ retry: false })
    const running = failing(transport.send(post(server.url)))
    await until(() => server.requests === 1, 'the request has arrived')
    await transport.close({ graceMs: 50 })
    expect(isMillraceError(await running, 'closed')).toBe(true)
  })
})

describe('what must not be left behind', () => {
  test('an abort while connecting closes the socket, frees the pool, and closing does not wait for it', async () => {
    let sockets = 0
    const silent = createServer((socket) => {
      sockets++
      socket
        .on('close', () => sockets--)
        .on('error', () => {})
        .resume()
    }).listen(0, '127.0.0.1')
    await new Promise((resolve) => silent.once('listening', resolve))
    const { port } = silent.address() as { port: number }
    const transport = createTransport({ maxConnections: 2, retry: false })
    const controller = new AbortController()
    const url = `https://127.0.0.1:${port}`
    const calls = [1, 2].map(() => failing(transport.send(post(url, { signal: controller.signal }))))
    await until(() => sockets === 2, 'both are connecting')
    controller.abort('stop')
    expect(await Promise.all(calls)).toEqual(['stop', 'stop'])
    await until(() => sockets === 0, 'the sockets are closed')
    const third = failing(transport.send(post(url)))
    await until(() => sockets === 1, 'the place is free again')
    await transport.close({ graceMs: 0 })
    expect(isMillraceError(await third, 'closed')).toBe(true)
    await until(() => sockets === 0, 'nothing is left of it')
    silent.close()
  })

  test('the abort of one call leaves the connections of others alone', async () => {
    const server = use(await serve(json({ ok: true })))
    const { port } = new URL(server.url)
    // Stands in for a slow handshake: connections go through a relay that opens late.
    const relay = createServer((near) => {
      near.pause().on('error', () => {})
      setTimeout(() => {
        const far = connect(Number(port), '127.0.0.1').on('error', () => {})
        near.pipe(far).pipe(near)
      }, 300)
    }).listen(0, '127.0.0.1')
    await new Promise((resolve) => relay.once('listening', resolve))
    const url = `http://127.0.0.1:${(relay.address() as { port: number }).port}`
    const transport = use(createTransport({ retry: false }))
    const stays = Array.from({ length: 10 }, () => transport.send(post(url)).then(({ body }) => body.text()))
    const controller = new AbortController()
    const leaves = Array.from({ length: 10 }, () => failing(transport.send(post(url, { signal: controller.signal }))))
    setTimeout(() => controller.abort('stop'), 50)
    expect(await Promise.all(stays)).toEqual(Array.from({ length: 10 }, () => '{"ok":true}'))
    expect(await Promise.all(leaves)).toEqual(Array.from({ length: 10 }, () => 'stop'))
    relay.close()
  })

  test('the same while their sockets are still being connected, over TLS', async () => {
    const sockets: Socket[] = []
    const silent = createServer((socket) => void sockets.push(socket.on('error', () => {}).resume())).listen(0, '127.0.0.1')
    await new Promise((resolve) => silent.once('listening', resolve))
    const url = `https://127.0.0.1:${(silent.address() as { port: number }).port}`
    const transport = createTransport({ retry: false })
    const first = transport.send(post(url)).catch((error: unknown) => error)
    await until(() => sockets.length === 1, 'the first is connecting')
    const controller = new AbortController()
    const second = failing(transport.send(post(url, { signal: controller.signal })))
    await until(() => sockets.length === 2, 'the second is connecting')
    controller.abort('stop')
    expect(await second).toBe('stop')
    await until(() => sockets[1]?.destroyed ?? false, 'its own socket is closed')
    expect(sockets[0]?.destroyed).toBe(false)
    await transport.close({ graceMs: 0 })
    expect(isMillraceError(await first, 'closed')).toBe(true)
    silent.close()
  })

  test('a blocked event loop trips neither the headers nor the connect clock when the answer came in time', async () => {
    const server = use(await serve((_, response) => response.end('x')))
    const transport = use(createTransport({ retry: false }))
    const call = transport.send(post(server.url, { timeouts: { connectMs: 100, headersMs: 100 } }))
    const end = performance.now() + 400
    while (performance.now() < end);
    expect((await call).status).toBe(200)
  })

  test('a grace without end is waited for', async () => {
    const server = use(await serve((_, response) => void setTimeout(() => response.end('late'), 80)))
    const transport = createTransport({ retry: false })
    const call = transport.send(post(server.url)).then(({ body }) => body.text())
    await until(() => server.requests === 1, 'the request has arrived')
    await transport.close({ graceMs: Number.POSITIVE_INFINITY })
    expect(await call).toBe('late')
  })

  test('a hook for trace headers that throws costs the trace and not the call', async () => {
    const server = use(await serve(json({})))
    const hook = (): never => {
      throw new Error('hostile')
    }
    const transport = use(createTransport({ traceHeaders: hook }))
    expect((await transport.send(post(server.url, { callId: 'c' }))).status).toBe(200)
    expect(transport.stats().traceFailures).toBe(1)
  })

  test('the hook for trace headers is told which attempt it is for', async () => {
    const server = use(await serve((_, response) => response.writeHead(server.requests === 1 ? 503 : 200).end()))
    const asked: unknown[] = []
    const hook = (...of: unknown[]): Record<string, string> => {
      asked.push(of)
      return {}
    }
    const transport = use(createTransport({ traceHeaders: hook, retry: { baseMs: 1 } }))
    await transport.send(post(server.url, { callId: 'c' }))
    expect(asked).toEqual([
      ['c', 1],
      ['c', 2]
    ])
  })

  test('each attempt passes the limits, and an open circuit refuses behind them', async () => {
    const server = use(await serve((_, response) => response.writeHead(500).end()))
    const passed: (number | undefined)[] = []
    const limits: Layer<Send> = (next) => async (request) => {
      passed.push(request.attempt)
      return next(request)
    }
    const transport = use(
      createTransport({ limits, retry: { baseMs: 1, maxMs: 1, maxAttempts: 3 }, breaker: { minimumRequests: 3, openMs: 60_000 } })
    )
    expect(transport.limits).toBe(limits)
    expect((await transport.send(post(server.url))).status).toBe(500)
    expect(passed).toEqual([undefined, 2, 3])
    expect(await failing(transport.send(post(server.url)))).toMatchObject({ code: 'circuit-open' })
    expect(passed).toHaveLength(4)
    expect(server.requests).toBe(3)
  })

  test('what the limits refuse is refused at once, and sent nowhere', async () => {
    const server = use(await serve(json({})))
    const full = new MillraceError('queue-full', 'the queue is full', { details: { limit: 1 } })
    let asked = 0
    const limits: Layer<Send> = () => () => {
      asked++
      return Promise.reject(full)
    }
    const transport = use(createTransport({ limits }))
    expect(await failing(transport.send(post(server.url)))).toBe(full)
    expect(asked).toBe(1)
    expect(server.requests).toBe(0)
  })

  test('requests of no call are named, so that those under way are told apart; an aborted one is told as such', async () => {
    const server = use(await serve((request, response) => void (request.url === '/hang' || response.end('x'))))
    const told: { name: string; callId: string; aborted?: boolean | undefined }[] = []
    const hear = ({ callId, ...message }: { callId: string }, name: string | symbol): void => {
      told.push({ name: String(name), callId, ...('aborted' in message ? { aborted: message.aborted === true } : {}) })
    }
    for (const channel of [channels.attemptStart, channels.attemptEnd]) channel.subscribe(hear)
    try {
      const headers: string[] = []
      const hook = (callId: string): Record<string, string> => {
        headers.push(callId)
        return {}
      }
      const transport = use(createTransport({ traceHeaders: hook, retry: false }))
      await Promise.all([transport.send(post(server.url)), transport.send(post(server.url))])
      const abort = new AbortController()
      const hanging = failing(transport.send(post(`${server.url}/hang`, { signal: abort.signal })))
      await until(() => server.requests === 3, 'it has arrived')
      abort.abort(new Error('enough'))
      await hanging
      const starts = told.filter(({ name }) => name.endsWith('start')).map(({ callId }) => callId)
      expect(new Set(starts).size).toBe(3)
      expect(headers).toEqual(starts)
      const ends = told.filter(({ name }) => name.endsWith('end'))
      expect(ends.map(({ aborted }) => aborted)).toEqual([undefined, undefined, true])
      expect(ends.map(({ callId }) => callId).toSorted()).toEqual(starts.toSorted())
    } finally {
      for (const channel of [channels.attemptStart, channels.attemptEnd]) channel.unsubscribe(hear)
    }
  })

  test('a wait before a retry ends when the transport closes', async () => {
    const server = use(await serve((_, response) => response.writeHead(429, { 'retry-after': '30' }).end()))
    const transport = createTransport()
    const call = failing(transport.send(post(server.url)))
    await until(() => server.requests === 1 && transport.stats().origins[server.url]?.busy === 0, 'it waits')
    await transport.close({ graceMs: 0 })
    expect(isMillraceError(await call, 'closed')).toBe(true)
  })

  test('a deadline that ends an unread body takes its listener off', async () => {
    const server = use(await serve((_, response) => void response.writeHead(200).write('x')))
    const transport = use(createTransport({ retry: false }))
    const { signal } = new AbortController()
    for (let call = 0; call < 5; call++) await transport.send(post(server.url, { signal, timeouts: { totalMs: 40 } }))
    await until(() => getEventListeners(signal, 'abort').length === 0, 'no listener is left')
    expect(transport.stats().origins[server.url]?.busy).toBe(0)
  })

  test('an attempt that never got a socket is no request and no reuse', async () => {
    const transport = use(createTransport({ retry: false }))
    for (let call = 0; call < 3; call++) await failing(transport.send(post('http://127.0.0.1:9')))
    expect(transport.stats().origins['http://127.0.0.1:9']).toMatchObject({ requests: 0, opened: 0, reused: 0, busy: 0 })
  })
})

describe('telling', () => {
  test('each attempt is published with its origin and status, without path, query or headers', async () => {
    const server = use(await serve((_, response) => response.writeHead(server.requests === 1 ? 503 : 200).end('{}')))
    const transport = use(createTransport({ retry: { baseMs: 1 } }))
    const messages: object[] = []
    const listen = (message: object): number => messages.push(message)
    channels.attemptStart.subscribe(listen)
    channels.attemptEnd.subscribe(listen)
    await transport.send(post(`${server.url}/path?key=canary`, { callId: 'c1', headers: { authorization: 'canary' } }))
    channels.attemptStart.unsubscribe(listen)
    channels.attemptEnd.unsubscribe(listen)
    expect(messages).toMatchObject([
      { callId: 'c1', attempt: 1, origin: server.url, method: 'POST', owner: transport },
      { callId: 'c1', attempt: 1, status: 503 },
      { callId: 'c1', attempt: 2 },
      { callId: 'c1', attempt: 2, status: 200 }
    ])
    expect(JSON.stringify(messages.map(({ owner: _, ...facts }: { owner?: object }) => facts))).not.toContain('canary')
  })
})

test.each([
  [{ maxConnections: 0 }, /maxConnections/],
  [{ maxConnections: Number.NaN }, /maxConnections/],
  [{ maxQueue: -1 }, /maxQueue/],
  [{ keepAliveMs: 0 }, /keepAliveMs/],
  [{ connectMs: Number.NaN }, /connectMs/],
  [{ maxResponseBytes: -5 }, /maxResponseBytes/],
  [{ retry: { maxAttempts: 0 } }, /maxAttempts/],
  [{ retry: true }, /retry takes an object/],
  [{ retry: { maxAttemps: 3 } }, /retry has no option "maxAttemps"/],
  [{ maxConections: 5 }, /createTransport has no option "maxConections"/],
  [{ keepAliveMs: '30000' }, /keepAliveMs/],
  [{ traceHeaders: {} }, /traceHeaders/],
  [{ limits: {} }, /limits must be a layer/],
  [null, /createTransport takes an object/],
  [{ retry: { baseMs: 10, maxMs: 5 } }, /maxMs/]
])('refuses %j at creation with a TypeError that names the option', (options, message) => {
  expect(() => createTransport(options as never)).toThrow(message)
  expect(() => createTransport(options as never)).toThrow(TypeError)
})
