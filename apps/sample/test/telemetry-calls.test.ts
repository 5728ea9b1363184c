// What telemetry tells of calls that the list of faults does not name one by one: hedges, the cache, HTTP/2, streams nobody
// ends, and many at once.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants, createSecureServer, type ServerHttp2Stream } from 'node:http2'
import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { createAdapter } from '@millrace/adapter'
import { createRedis } from '@millrace/cache/redis'
import { type CallOptions, type ChatRequest, type Provider } from '@millrace/core'
import { chunk, createCertificate, type FaultRequest, heapAfterGc, seededRandom, startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { propagation } from '@opentelemetry/api'
import { describe, expect, test } from 'vitest'
import { type CallTrace, createHarness, type Harness } from './telemetry-harness.ts'
import {
  always,
  answersOnce,
  ask,
  both,
  closedPort,
  eager,
  type Fate,
  forever,
  gate,
  judge,
  listen,
  outcomes,
  type Rig,
  rig,
  settled,
  sound,
  use,
  w3c,
  usualWire as wire
} from './telemetry-rig.ts'
import { good, jsonResponse, serveGood, streamHead, wantsStream, wholeStream, wires } from './telemetry-wire.ts'

describe('before the wire', () => {
  test('N2 a SYN that is not answered: three attempts, the connect clock', async (context) => {
    const child = spawn(process.execPath, [
      '-e',
      'const s = require("node:net").createServer().listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => console.log(s.address().port))'
    ])
    const fillers: Socket[] = []
    use({
      async [Symbol.asyncDispose]() {
        for (const socket of fillers) socket.destroy()
        child.kill('SIGKILL')
      }
    })
    const [line] = (await once(child.stdout, 'data')) as [Buffer]
    const port = Number(line.toString())
    child.kill('SIGSTOP')
    for (let at = 0, pending = 0; pending < 2; at++) {
      if (at === 20) return context.skip('this machine accepts connections beyond the backlog')
      const socket = connect(port, '127.0.0.1').on('error', () => {})
      fillers.push(socket)
      await Promise.race([once(socket, 'connect'), delay(100)])
      if (socket.connecting) pending++
    }
    const harness = use(createHarness())
    const transport = use(createTransport({ ...eager, timeouts: { connectMs: 100 } }))
    const adapter = use(createAdapter({ provider: wire.provider(`http://127.0.0.1:${port}`), transport }))
    await settled(adapter.complete(ask()))
    const { span, attempts } = await judge(harness, 'timeout')
    expect(span.attributes['millrace.timeout.clock']).toBe('connect')
    expect(attempts.map(({ attributes }) => attributes['error.type'])).toEqual(['timeout', 'timeout', 'timeout'])
  })

  test('N9 a full queue and a deadline in the queue: the attempt is told, though no request was sent', async () => {
    const { opened, open } = gate()
    const { harness, adapter, requests } = await rig(
      async (connection) => {
        await connection.request()
        await opened
        await connection.write(jsonResponse(200, wire.json()))
      },
      { transport: { maxConnections: 1, maxQueue: 1 } }
    )
    const first = adapter.complete(ask())
    await expect.poll(() => requests().length).toBe(1)
    const second = adapter.complete(ask(), { timeouts: { totalMs: 100 } })
    const third = adapter.complete(ask())
    await settled(third)
    await settled(second)
    open()
    await first
    await sound(harness)
    expect(outcomes(harness)).toEqual(['queue-full', 'success', 'timeout'])
    const late = harness.calls().find(({ span }) => span.attributes['error.type'] === 'timeout')
    expect(late?.span.attributes['millrace.timeout.clock']).toBe('queue')
    for (const { attempts } of harness.calls()) expect(attempts).toHaveLength(1)
    expect(requests()).toHaveLength(1)
  })

  test('an open breaker: an error without an attempt', async () => {
    const { harness, adapter, requests } = await rig(always(jsonResponse(500, '{}')), {
      transport: { retry: false, breaker: { minimumRequests: 2, openMs: 60_000 } }
    })
    for (let at = 0; at < 4; at++) await settled(adapter.complete(ask()))
    await sound(harness)
    expect(outcomes(harness)).toEqual(['circuit-open', 'circuit-open', 'unavailable', 'unavailable'])
    expect(harness.calls().map(({ attempts }) => attempts.length)).toEqual([1, 1, 0, 0])
    expect(requests()).toHaveLength(2)
  })

  test.each([
    [
      'throws at once',
      (() => {
        throw new Error('at once')
      }) as Provider
    ],
    ['gives no iterable', (() => undefined) as unknown as Provider],
    [
      'throws at the first read',
      async function* () {
        yield* []
        throw new Error('later')
      } as Provider
    ],
    ['ends without a chunk', async function* () {} as Provider]
  ])('a provider of the caller that %s: an error without an attempt', async (_, provider) => {
    const harness = use(createHarness())
    const adapter = use(createAdapter({ provider }))
    for (const work of [adapter.complete(ask()), adapter.stream(ask()).completion()]) {
      expect(await settled(work)).toBeInstanceOf(Error)
    }
    await sound(harness)
    expect(harness.calls()).toHaveLength(2)
    for (const { span, attempts } of harness.calls()) {
      expect(span.attributes['millrace.outcome']).toBe('error')
      expect(attempts).toHaveLength(0)
    }
  })

  test('a request that is none, and an adapter that is closed', async () => {
    const { harness, adapter, requests } = await rig(serveGood)
    await settled(adapter.complete({ model: 'asked', messages: [] }))
    await settled(adapter.complete(null as unknown as ChatRequest))
    await adapter.close()
    await settled(adapter.complete(ask()))
    await sound(harness)
    expect(outcomes(harness)).toEqual(['closed', 'invalid-request', 'invalid-request'])
    expect(requests()).toHaveLength(0)
  })
})

describe('hedges', () => {
  /** The second request of the last call is as fast as the first is slow, or the other way round. */
  const hedged = async (faster: 'first' | 'second'): Promise<Rig> => {
    let count = 0
    const made = await rig(
      async (connection) => {
        for (;;) {
          await connection.request()
          const number = ++count
          if (number > 3 && (number === 4) === (faster === 'second')) {
            await connection.closed
            return
          }
          if (number > 3) await connection.pause(300)
          await connection.write(jsonResponse(200, wire.json()))
        }
      },
      { transport: { hedge: { maxExtra: 1, minSamples: 3, minDelayMs: 50 } } }
    )
    for (let at = 0; at < 3; at++) await made.adapter.complete(ask())
    return made
  }

  test.each(['first', 'second'] as const)(
    'the %s request answers: two attempts, each with its own trace parent',
    async (faster) => {
      propagation.setGlobalPropagator(w3c)
      const { harness, adapter, requests } = await hedged(faster)
      await adapter.complete(ask())
      await sound(harness)
      const { span, attempts } = harness.calls()[3] as CallTrace
      expect(span.attributes['millrace.outcome']).toBe('success')
      expect(attempts).toHaveLength(2)
      expect(requests()).toHaveLength(5)
      checkTraceparents({ span, attempts }, requests().slice(3))
    }
  )
})

/** What each request said is its parent is the span of its attempt, and no two say the same. */
function checkTraceparents({ span, attempts }: CallTrace, requests: readonly FaultRequest[]): void {
  const told = requests.map(({ headers }) => headers.traceparent)
  const spans = attempts.map((attempt) => `00-${span.spanContext().traceId}-${attempt.spanContext().spanId}-01`)
  expect(told.toSorted()).toEqual(spans.toSorted())
  expect(new Set(told).size).toBe(requests.length)
}

test('traceparent reaches the socket, and names another span for each retry', async () => {
  propagation.setGlobalPropagator(w3c)
  for (const shape of both) {
    const { harness, adapter, requests } = await rig(async (connection) => {
      for (;;) {
        const request = await connection.request()
        if (connection.number < 3) {
          await connection.write(jsonResponse(503, '{}'))
          return connection.end()
        }
        await connection.write(good(wire, request))
      }
    })
    await (shape === 'complete' ? adapter.complete(ask()) : adapter.stream(ask()).completion())
    const { span, attempts } = await judge(harness, 'success')
    expect(attempts).toHaveLength(3)
    checkTraceparents({ span, attempts }, requests())
    expect(attempts.map(({ attributes }) => attributes['http.request.resend_count'])).toEqual([undefined, 1, 2])
    expect(attempts.map(({ attributes }) => attributes['http.response.status_code'])).toEqual([503, 503, 200])
  }
})

describe('the cache', () => {
  const states = (harness: Harness): unknown[] => harness.calls().map(({ span }) => span.attributes['millrace.cache.state'])

  test.each(both)('K11 miss, hit and bypass of %s: only what was asked has an attempt', async (shape) => {
    const { harness, adapter, requests } = await rig(serveGood, { cache: {} })
    const get = (options: CallOptions = {}): Promise<unknown> =>
      shape === 'complete' ? adapter.complete(ask(), options) : adapter.stream(ask(), options).completion()
    await get()
    await get()
    await get({ cache: { bypass: true } })
    await sound(harness)
    expect(states(harness)).toEqual(['miss', 'hit', 'bypass'])
    expect(harness.calls().map(({ attempts }) => attempts.length)).toEqual([1, 0, 1])
    expect(outcomes(harness)).toEqual(['success', 'success', 'success'])
    expect(requests()).toHaveLength(2)
  })

  test.each(both)('K9 ten who ask at once share one attempt (%s)', async (shape) => {
    const { opened, open } = gate()
    const { harness, adapter, requests } = await rig(
      async (connection) => {
        const request = await connection.request()
        await opened
        await connection.write(good(wire, request))
      },
      { cache: {} }
    )
    const all = Array.from({ length: 10 }, () =>
      shape === 'complete' ? adapter.complete(ask()) : adapter.stream(ask()).completion()
    )
    await expect.poll(() => requests().length).toBe(1)
    open()
    await Promise.all(all)
    await sound(harness)
    expect(states(harness).filter((state) => state === 'joined')).toHaveLength(9)
    expect(harness.calls().reduce((sum, { attempts }) => sum + attempts.length, 0)).toBe(1)
    expect(outcomes(harness)).toEqual(Array.from({ length: 10 }, () => 'success'))
  })

  test('K9 the first asker aborts: aborted is aborted, and those who joined go on, also over a retry', async () => {
    const { opened, open } = gate()
    const { harness, adapter, requests } = await rig(
      async (connection) => {
        await connection.request()
        if (connection.number === 1) {
          await opened
          return connection.reset()
        }
        await connection.write(jsonResponse(200, wire.json()))
      },
      { cache: {} }
    )
    const controller = new AbortController()
    const first = settled(adapter.complete(ask(), { signal: controller.signal }))
    await expect.poll(() => requests().length).toBe(1)
    const others = Array.from({ length: 3 }, () => adapter.complete(ask()))
    await delay(20)
    controller.abort('enough')
    expect(await first).toBe('enough')
    open()
    await Promise.all(others)
    await sound(harness)
    expect(outcomes(harness)).toEqual(['aborted', 'success', 'success', 'success'])
    expect(requests()).toHaveLength(2)
    const aborted = harness.calls().find(({ span }) => span.attributes['millrace.outcome'] === 'aborted')
    expect(aborted?.attempts).toHaveLength(1)
    // The call that began it all was over when the second request was sent: that one stands alone.
    expect(harness.strays()).toHaveLength(1)
  })

  test('K9 a failure is shared: each asker has its own error', async () => {
    const { opened, open } = gate()
    const { harness, adapter } = await rig(
      async (connection) => {
        await connection.request()
        await opened
        await connection.write(jsonResponse(401, '{}'))
      },
      { cache: {} }
    )
    const all = Array.from({ length: 5 }, () => settled(adapter.complete(ask())))
    await delay(50)
    open()
    await Promise.all(all)
    await sound(harness)
    expect(outcomes(harness)).toEqual(Array.from({ length: 5 }, () => 'unauthorized'))
  })

  test.each(both)("stale: served at once, and the refresh behind it is nobody's call (%s)", async (shape) => {
    let now = 0
    const cache = { now: () => now, ttlMs: 1000, staleWhileRevalidateMs: 60_000 }
    const { harness, adapter, requests } = await rig(serveGood, { cache })
    const get = (): Promise<unknown> => (shape === 'complete' ? adapter.complete(ask()) : adapter.stream(ask()).completion())
    await get()
    now = 2000
    await get()
    await expect.poll(() => requests().length).toBe(2)
    await expect.poll(() => adapter.stats().cache?.refreshes).toBe(1)
    await sound(harness)
    expect(states(harness)).toEqual(['miss', 'stale'])
    expect(harness.calls().map(({ attempts }) => attempts.length)).toEqual([1, 0])
    expect(harness.strays().map(({ name }) => name)).toEqual(['POST'])
  })

  test('many refreshes at once: each request has a span of its own', async () => {
    let now = 0
    const { opened, open } = gate()
    let waits = false
    const cache = { now: () => now, ttlMs: 1000, staleWhileRevalidateMs: 60_000 }
    const { harness, adapter, requests } = await rig(
      async (connection) => {
        for (;;) {
          await connection.request()
          if (waits) await opened
          await connection.write(jsonResponse(200, wire.json()))
        }
      },
      { cache }
    )
    for (let at = 0; at < 5; at++) await adapter.complete(ask(`question ${at}`))
    now = 2000
    waits = true
    for (let at = 0; at < 5; at++) await adapter.complete(ask(`question ${at}`))
    await expect.poll(() => requests().length).toBe(10)
    open()
    await expect.poll(() => adapter.stats().cache?.refreshes).toBe(5)
    await sound(harness)
    expect(harness.strays()).toHaveLength(5)
  })

  test('K1 a store that cannot be reached costs no call its span', async () => {
    const store = use(createRedis({ url: `redis://127.0.0.1:${await closedPort()}` }))
    const { harness, adapter } = await rig(serveGood, { cache: { store, scope: 'test' } })
    for (const content of ['a', 'b']) await adapter.complete(ask(content))
    await sound(harness)
    expect(outcomes(harness)).toEqual(['success', 'success'])
  })

  test('K10 an answer that was cut or filtered is a success, and is fetched again', async () => {
    const { harness, adapter } = await rig(
      always(() => jsonResponse(200, wire.json('Al', 'length'))),
      { cache: {} }
    )
    await adapter.complete(ask())
    await adapter.complete(ask())
    await sound(harness)
    expect(states(harness)).toEqual(['miss', 'miss'])
    expect(harness.calls()[0]?.span.attributes['gen_ai.response.finish_reasons']).toEqual(['length'])
  })
})

describe('HTTP/2', () => {
  const certificate = createCertificate()
  const head = { ':status': 200, 'content-type': 'application/json' }

  async function overHttp2(answer: (stream: ServerHttp2Stream, number: number) => void): Promise<Rig & { count: () => number }> {
    const server = createSecureServer(certificate)
    let count = 0
    server.on('session', (session) => void session.on('error', () => {}))
    server.on('stream', (stream) => {
      stream.on('error', () => {})
      stream.resume().once('end', () => answer(stream, ++count))
    })
    const port = await listen(server)
    const harness = use(createHarness())
    const transport = use(createTransport({ ...eager, http2: true, ca: certificate.cert, timeouts: { headersMs: 200 } }))
    const adapter = use(createAdapter({ provider: wire.provider(`https://127.0.0.1:${port}`), transport }))
    return { harness, adapter, requests: () => [], count: () => count }
  }
  const whole = (stream: ServerHttp2Stream): void => {
    stream.respond(head)
    stream.end(wire.json())
  }

  test.each<[string, (stream: ServerHttp2Stream, number: number) => void, Fate, number]>([
    ['stall', () => {}, 'timeout', 1],
    ['RST before the head', (stream) => stream.close(constants.NGHTTP2_INTERNAL_ERROR), 'network', 3],
    [
      'RST in the body',
      (stream) => {
        stream.respond(head)
        stream.write('{"id', () => stream.close(constants.NGHTTP2_INTERNAL_ERROR))
      },
      'protocol',
      1
    ],
    ['good', whole, 'success', 1]
  ])('H7 %s', async (_, answer, gives, expected) => {
    const { harness, adapter, count } = await overHttp2(answer)
    await settled(adapter.complete(ask()))
    const { attempts } = await judge(harness, gives)
    expect(attempts).toHaveLength(expected)
    expect(count()).toBe(expected)
  })

  test('H7 REFUSED_STREAM is sent again at once, as part of its attempt', async () => {
    const { harness, adapter, count } = await overHttp2((stream, number) => {
      if (number === 1) stream.close(constants.NGHTTP2_REFUSED_STREAM)
      else whole(stream)
    })
    await adapter.complete(ask())
    const { attempts } = await judge(harness, 'success')
    expect(attempts).toHaveLength(1)
    expect(count()).toBe(2)
  })
})

describe('E4 streams nobody ends', () => {
  test('S16 a forgotten iterator: abandoned, when it has been collected', async () => {
    const { harness, adapter } = await rig(async (connection) => {
      await connection.request()
      await connection.write(streamHead + chunk(wire.opening))
      await forever(connection, chunk(wire.more), 10)
    })
    await (async () => {
      const stream = adapter.stream(ask())
      for (let read = 0; read < 4; read++) await stream.next()
    })()
    expect(harness.telemetry.stats().open).toBe(1)
    await expect
      .poll(
        async () => {
          await heapAfterGc()
          return harness.telemetry.stats().open
        },
        { timeout: 10_000 }
      )
      .toBe(0)
    await judge(harness, 'abandoned')
  })

  test('one that was never read has no span', async () => {
    const { harness, adapter } = await rig(serveGood)
    adapter.stream(ask())
    await adapter.stream(ask()).return()
    await sound(harness)
    expect(harness.spans()).toHaveLength(0)
  })

  test('close() of the adapter ends the calls that run: closed', async () => {
    const { harness, adapter, requests } = await rig(async (connection) => {
      if (wantsStream(await connection.request())) await connection.write(streamHead + chunk(wire.opening))
      await connection.closed
    })
    const calls = [adapter.complete(ask()), adapter.stream(ask()).completion()].map(settled)
    await expect.poll(() => requests().length).toBe(2)
    await adapter.close({ graceMs: 50 })
    await Promise.all(calls)
    await sound(harness)
    expect(outcomes(harness)).toEqual(['closed', 'closed'])
    for (const { attempts } of harness.calls()) expect(attempts).toHaveLength(1)
  })

  test('close() of the telemetry ends what is open, once, and what ends later is not told', async () => {
    const { harness, adapter } = await rig(answersOnce(() => streamHead + chunk(wire.opening)))
    const stream = adapter.stream(ask())
    for await (const { type } of { [Symbol.asyncIterator]: () => ({ next: () => stream.next() }) }) if (type === 'text') break
    await harness.telemetry.close()
    await stream.return()
    await sound(harness)
    expect(harness.calls()).toHaveLength(1)
  })
})

test('S17 tool calls, text and usage of a stream are on its span as names and numbers', async () => {
  for (const dialect of wires) {
    const server = use(
      await startScriptedProvider({ reply: () => ({ toolCalls: [{ name: 'get_weather', arguments: { at: 'Rome' } }] }) })
    )
    const harness = use(createHarness())
    const adapter = use(createAdapter({ provider: dialect.provider(server.url.replace(/\/v1$/, '')) }))
    await adapter.stream(ask()).completion()
    const { span } = await judge(harness, 'success')
    expect(span.attributes['gen_ai.response.finish_reasons']).toEqual(['tool-calls'])
    expect(span.attributes['gen_ai.usage.input_tokens']).toBeGreaterThan(0)
    expect(span.attributes['gen_ai.provider.name']).toBe(dialect.name)
  }
})

const seed = 20261123
test(`two hundred calls of mixed fate at once (seed ${seed}): as many spans, each with its own fate`, async () => {
  const random = seededRandom(seed)
  const fates = ['good', 'retried', 'refused', 'reset', 'cut', 'aborted', 'left', 'slow', 'hit'] as const
  const plan = Array.from({ length: 200 }, (_, at) => ({
    at,
    fate: fates[Math.floor(random() * fates.length)] ?? 'good',
    stream: random() < 0.5
  }))
  const tried = new Set<string>()
  const { harness, adapter, requests } = await rig(
    async (connection) => {
      for (;;) {
        const request = await connection.request()
        const [, name = '', fate = ''] = /"((\w+)-\d+)"/.exec(request.body) ?? []
        await connection.pause(random() * 20)
        if (fate === 'aborted' || fate === 'slow') return connection.closed
        if (fate === 'reset') return connection.reset()
        if (fate === 'refused') await connection.write(jsonResponse(400, '{}'))
        else if (fate === 'retried' && !tried.has(name)) {
          tried.add(name)
          await connection.write(jsonResponse(503, '{}'))
        } else if (fate === 'cut') {
          await connection.write(wantsStream(request) ? wholeStream(wire.opening) : jsonResponse(200, '{"id'))
        } else await connection.write(good(wire, request))
      }
    },
    { cache: {} }
  )
  await adapter.complete(ask('hit-0'))

  const expected: Record<(typeof fates)[number], string> = {
    good: 'success',
    retried: 'success',
    refused: 'invalid-request',
    reset: 'network',
    cut: 'protocol',
    aborted: 'aborted',
    left: 'abandoned',
    slow: 'timeout',
    hit: 'success'
  }
  const fateOf = ({ fate, stream: streamed }: (typeof plan)[number]): string =>
    fate === 'left' && !streamed ? 'success' : expected[fate]
  await Promise.all(
    plan.map(async ({ at, fate, stream: streamed }) => {
      const controller = new AbortController()
      if (fate === 'aborted') setTimeout(() => controller.abort('enough'), 100 + random() * 100)
      const options: CallOptions = { signal: controller.signal, ...(fate === 'slow' ? { timeouts: { totalMs: 500 } } : {}) }
      const request = ask(fate === 'hit' ? 'hit-0' : `${fate}-${at}`)
      if (!streamed) return settled(adapter.complete(request, options))
      return settled(
        (async () => {
          for await (const { type } of adapter.stream(request, options)) if (type === 'text' && fate === 'left') break
        })()
      )
    })
  )
  await sound(harness)
  expect(outcomes(harness)).toEqual(['success', ...plan.map(fateOf)].toSorted())
  const attempts = harness.spans().length - harness.calls().length
  // A socket that is reset behind an earlier answer costs a free repeat, inside its attempt.
  expect(attempts + adapter.stats().resent).toBe(requests().length)
})
