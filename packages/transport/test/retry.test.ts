import { getEventListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import {
  type Deadline,
  type HttpRequest,
  type HttpResponse,
  isMillraceError,
  MillraceError,
  pipe,
  type Send,
  timeoutError
} from '@millrace/core'
import { chunk, type FaultServer, probeLeaks, responseHead, seededRandom, sse, startFaultServer } from '@millrace/testkit'
import { createTransport, type RetryOptions, retry, type Transport } from '@millrace/transport'
import { afterEach, describe, expect, test } from 'vitest'
import { backOffMs, createRetry } from '../src/retry.ts'
import { serve, type TestServer, until } from './serve.ts'

const request: HttpRequest = { method: 'POST', url: 'http://127.0.0.1/', headers: {}, body: '{}' }
const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const thing of open.splice(0).toReversed()) await thing[Symbol.asyncDispose]()
})
function use<T extends AsyncDisposable>(thing: T): T {
  open.push(thing)
  return thing
}

/** Retries only: no breaker that would end them. */
function transportWith(options: RetryOptions = {}): Transport {
  return use(createTransport({ breaker: false, retry: { baseMs: 1, ...options } }))
}

interface Refusal {
  readonly status: number
  readonly headers?: Record<string, string>
  readonly body?: string
}

/** Answers the first requests with these, and every further one with 200. */
async function answering(...refusals: readonly Refusal[]): Promise<TestServer> {
  let count = 0
  const server = await serve((_, response) => {
    const { status, headers, body } = refusals[count++] ?? { status: 200, headers: {}, body: 'answer' }
    response.writeHead(status, headers).end(body)
  })
  return use(server)
}

/** One script a connection; the last one for all that follow. */
async function scripted(...scripts: readonly Parameters<typeof startFaultServer>[0][]): Promise<FaultServer> {
  return use(await startFaultServer((connection) => scripts[Math.min(connection.number, scripts.length) - 1]?.(connection)))
}

/** Answers `200` to every request of a connection. */
async function healthy(connection: Parameters<Parameters<typeof startFaultServer>[0]>[0]): Promise<void> {
  for (;;) {
    await connection.request()
    await connection.write(responseHead(200, { 'content-length': 6 }) + 'answer')
  }
}

async function failure(work: Promise<unknown>): Promise<MillraceError> {
  const error = await work.then(
    () => new Error('it did not fail'),
    (thrown: unknown) => thrown
  )
  if (!isMillraceError(error)) throw error
  return error
}

async function timed<T>(work: () => Promise<T>): Promise<{ value: T; ms: number }> {
  const startedAt = performance.now()
  const value = await work()
  return { value, ms: performance.now() - startedAt }
}

describe('a refusal', () => {
  test.each([408, 409, 429, 500, 502, 503, 504, 529])('of %i is tried again', async (status) => {
    const { url } = await answering({ status, body: '<html>busy</html>' }, { status })
    const response = await transportWith().send({ ...request, url })
    expect(response).toMatchObject({ status: 200, attempts: 3 })
    expect(await response.body.text()).toBe('answer')
  })

  test.each([301, 400, 401, 402, 403, 404, 413, 422])('of %i is not, and its body is handed on', async (status) => {
    const server = await answering({ status, body: 'because' })
    const response = await transportWith().send({ ...request, url: server.url })
    expect(response).toMatchObject({ status, attempts: 1 })
    expect(await response.body.text()).toBe('because')
    expect(server.requests).toBe(1)
  })

  test.each([
    ...['insufficient_quota', 'billing_hard_limit_reached', 'billing_not_active', 'credit_balance_too_low'].flatMap((name) => [
      { status: 429, body: JSON.stringify({ error: { code: name } }) },
      { status: 429, body: JSON.stringify({ error: { type: name, code: null } }) }
    ]),
    { status: 500, headers: { 'x-should-retry': 'false' }, body: 'no' },
    { status: 429, headers: { 'retry-after': '61' }, body: 'later' },
    { status: 429, headers: { 'retry-after-ms': '60001' }, body: 'later' },
    {
      status: 429,
      headers: { 'x-ratelimit-reset-requests': '20m52.666s', 'x-ratelimit-remaining-requests': '0' },
      body: 'later'
    },
    {
      status: 429,
      body: JSON.stringify([{ error: { details: [{ '@type': 'type.googleapis.com/google.rpc.RetryInfo', retryDelay: '61s' }] } }])
    }
  ] satisfies Refusal[])('that no wait would change is handed on at once: %j', async (refusal) => {
    const server = await answering(refusal)
    const transport = transportWith()
    const { value: response, ms } = await timed(() => transport.send({ ...request, url: server.url }))
    expect(response).toMatchObject({ status: refusal.status, attempts: 1 })
    expect(await response.body.text()).toBe(refusal.body)
    expect(server.requests).toBe(1)
    expect(ms).toBeLessThan(1000)
    expect(transport.stats()).toMatchObject({ retries: 0, retriesDenied: 0 })
  })

  test('whose prose only mentions a quota is tried again', async () => {
    const body = JSON.stringify({ error: { code: 'rate_limit_exceeded', message: 'unlike "insufficient_quota", wait' } })
    const { url } = await answering({ status: 429, body })
    expect(await transportWith().send({ ...request, url })).toMatchObject({ status: 200, attempts: 2 })
  })

  test('that is the last one is handed on with its body, unread', async () => {
    const refusal = { status: 503, body: 'x'.repeat(65_536) }
    const server = await answering(refusal, refusal, refusal)
    const response = await transportWith().send({ ...request, url: server.url })
    expect(response).toMatchObject({ status: 503, attempts: 3 })
    expect(await response.body.text()).toBe(refusal.body)
    expect(server.requests).toBe(3)
  })

  test('read ahead and then not tried again is whole, up to 64 KiB', async () => {
    const refusal = { status: 429, body: 'é'.repeat(32_768) }
    const { url } = await answering(refusal)
    const transport = transportWith({ baseMs: 50_000, maxMs: 50_000, random: () => 1 })
    const response = await transport.send({ ...request, url, timeouts: { totalMs: 10_000 } })
    expect(response).toMatchObject({ status: 429, attempts: 1 })
    expect(await response.body.text()).toBe(refusal.body)
  })

  test('is read to 64 KiB, or as far as maxErrorBytes says, and then its socket is closed', async () => {
    const refusal = { status: 400, body: 'x'.repeat(200_000) }
    const server = await answering(refusal, refusal)
    const clipped = await transportWith().send({ ...request, url: server.url })
    expect(await clipped.body.text()).toBe('x'.repeat(65_536))
    await until(() => server.open === 0, 'the socket of a clipped refusal closes')
    await using generous = createTransport({ maxErrorBytes: 1_000_000 })
    const whole = await generous.send({ ...request, url: server.url })
    expect(await whole.body.text()).toBe(refusal.body)
  })

  test('whose body stalls is tried again all the same, within about a second', async () => {
    const server = await scripted(async (connection) => {
      await connection.request()
      await connection.write(`${responseHead(500, { 'content-length': 100 })}half`)
    }, healthy)
    const { value: response, ms } = await timed(() => transportWith().send({ ...request, url: server.url }))
    expect([response.attempts, await response.body.text()]).toEqual([2, 'answer'])
    expect(ms).toBeGreaterThan(900)
    expect(ms).toBeLessThan(3000)
    expect(server.open).toBe(1)
  })

  test('leaves its socket to the next try', async () => {
    const server = await answering({ status: 429, body: 'slow down' }, { status: 503, body: 'busy' })
    expect(await transportWith().send({ ...request, url: server.url })).toMatchObject({ attempts: 3 })
    expect(server.sockets).toBe(1)
  })
})

describe('a hint', () => {
  test.each([
    ['retry-after-ms', () => '150', 150],
    ['retry-after', () => '0.15', 150],
    ['retry-after', () => '1', 1000],
    ['x-ratelimit-reset-requests', () => '150ms', 150]
  ])('in %s is waited at least', async (name, value, leastMs) => {
    const server = await answering({ status: 429, headers: { [name]: value() }, body: 'slow down' })
    const { value: response, ms } = await timed(() => transportWith().send({ ...request, url: server.url }))
    expect(response).toMatchObject({ status: 200, attempts: 2 })
    expect(ms).toBeGreaterThanOrEqual(leastMs)
    expect(ms).toBeLessThan(leastMs + 2000)
  })

  test('of an HTTP date is waited at least', async () => {
    const date = Math.ceil(Date.now() / 1000 + 0.1) * 1000
    const server = await answering({ status: 503, headers: { 'retry-after': new Date(date).toUTCString() } })
    const { ms } = await timed(() => transportWith().send({ ...request, url: server.url }))
    expect(Date.now()).toBeGreaterThanOrEqual(date)
    expect(ms).toBeLessThan(4000) // a date is of whole seconds, and so is that of the response
  })

  test("in Google's RetryInfo is waited at least", async () => {
    const details = [{ '@type': 'type.googleapis.com/google.rpc.RetryInfo', retryDelay: '0.2s' }]
    const { url } = await answering({ status: 429, body: JSON.stringify({ error: { code: 429, details } }) })
    const { ms } = await timed(() => transportWith().send({ ...request, url }))
    expect(ms).toBeGreaterThanOrEqual(200)
  })

  test('of zero is honoured: only the first back-off is drawn from', async () => {
    const refusal = { status: 429, headers: { 'retry-after': '0' } }
    const { url } = await answering(refusal, refusal, refusal, refusal)
    const transport = transportWith({ maxAttempts: 5, baseMs: 20, maxMs: 10_000, random: () => 1 })
    const { value: response, ms } = await timed(() => transport.send({ ...request, url }))
    expect(response.attempts).toBe(5)
    expect(ms).toBeGreaterThanOrEqual(80) // a plain back-off would be 20 + 40 + 80 + 160
    expect(ms).toBeLessThan(290)
  })

  test('that the deadline cannot bear fails the call at once, with the hint in its hands', async () => {
    const server = await answering({ status: 429, headers: { 'retry-after': '5' }, body: 'later' })
    const send = transportWith().send
    const { value: response, ms } = await timed(() => send({ ...request, url: server.url, timeouts: { totalMs: 2000 } }))
    expect(response).toMatchObject({ status: 429, headers: { 'retry-after': '5' }, attempts: 1 })
    expect(await response.body.text()).toBe('later')
    expect(ms).toBeLessThan(1000)
    expect(server.requests).toBe(1)
  })

  test.each(['banana', '-3', 'NaN', '1, 2', 'Fri, 31 Dec 9999 23:59:59 GMT', '1e3', '99999999999'])(
    'that makes no sense (%s) leaves the plain back-off, never a tight loop',
    async (garbage) => {
      const refusal = { status: 429, headers: { 'retry-after': garbage } }
      const { url } = await answering(refusal, refusal)
      const { value: response, ms } = await timed(() => transportWith({ baseMs: 40, random: () => 1 }).send({ ...request, url }))
      expect(response.attempts).toBe(3)
      expect(ms).toBeGreaterThanOrEqual(120)
      expect(ms).toBeLessThan(2000)
    }
  )

  test('on a 200 means nothing', async () => {
    const headers = { 'retry-after': '55', 'x-ratelimit-reset-requests': '20m' }
    const server = await answering({ status: 200, headers, body: 'fine' })
    const { value: response, ms } = await timed(() => transportWith().send({ ...request, url: server.url }))
    expect([response.attempts, await response.body.text(), server.requests]).toEqual([1, 'fine', 1])
    expect(ms).toBeLessThan(1000)
  })
})

test('a back-off that would outlast the deadline is not slept', async () => {
  const server = await answering({ status: 503, body: 'busy' })
  const { send } = transportWith({ baseMs: 5000, random: () => 1 })
  const { value: response, ms } = await timed(() => send({ ...request, url: server.url, timeouts: { totalMs: 3000 } }))
  expect([response.status, await response.body.text(), server.requests]).toEqual([503, 'busy', 1])
  expect(ms).toBeLessThan(1500)
})

describe('a connection that breaks before the first content', () => {
  const head = responseHead(200, { 'content-type': 'application/json', 'content-length': 100 })
  const streamHead = responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })
  const preface = chunk(sse([{ choices: [{ delta: { role: 'assistant' } }] }]))
  const faults: readonly [string, string, 'reset' | 'end'][] = [
    ['reset before the head', '', 'reset'],
    ['closed before the head', '', 'end'],
    ['reset within the head', 'HTTP/1.1 200 OK\r\ncontent-ty', 'reset'],
    ['closed within the head', 'HTTP/1.1 200 OK\r\ncontent-ty', 'end'],
    ['reset within a JSON body', `${head}{"choices":`, 'reset'],
    ['closed within a JSON body', `${head}{"choices":`, 'end'],
    ['bad chunking', `${streamHead}banana\r\n`, 'end'],
    ['a stream reset before its first content', streamHead + preface, 'reset'],
    ['a stream cut before its first content', streamHead + preface, 'end'],
    ['a stream that ends without content', streamHead + preface + chunk(''), 'end'],
    ['a stream that begins with an error', streamHead + chunk(sse([{ error: { type: 'server_error' } }])) + chunk(''), 'end']
  ]
  test.each(faults)('is tried again: %s', async (_, bytes, how) => {
    const server = await scripted(async (connection) => {
      await connection.request()
      if (bytes !== '') await connection.write(bytes)
      await connection.pause(20)
      connection[how]()
    }, healthy)
    const response = await transportWith().send({ ...request, url: server.url })
    expect([response.attempts, await response.body.text()]).toEqual([2, 'answer'])
    expect(server.connections).toBe(2)
  })

  test('what does not speak HTTP is not tried again: it will not learn it', async () => {
    const server = await scripted(async (connection) => {
      await connection.request()
      await connection.write('SSH-2.0-OpenSSH_9.9\r\n')
      connection.end()
    })
    const error = await transportWith()
      .send({ ...request, url: server.url })
      .catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'protocol', details: { reason: 'malformed' }, retryable: false })
    expect(server.connections).toBe(1)
  })

  test('a stream that breaks behind its first content is not', async () => {
    const content = chunk(sse([{ choices: [{ delta: { content: 'Once' } }] }]))
    const server = await scripted(async (connection) => {
      await connection.request()
      await connection.write(streamHead + preface + content)
      await connection.pause(20)
      connection.reset()
    })
    const { body, attempts } = await transportWith().send({ ...request, url: server.url })
    expect(attempts).toBe(1)
    await expect(body.text()).rejects.toMatchObject({ code: 'network' })
    expect(server.connections).toBe(1)
  })

  test('an exhausted quota told in a stream is not', async () => {
    const event = sse([{ error: { type: 'insufficient_quota', code: 'insufficient_quota' } }])
    const server = await scripted(async (connection) => {
      await connection.request()
      await connection.write(streamHead + chunk(event) + chunk(''))
    })
    const response = await transportWith().send({ ...request, url: server.url })
    expect(response).toMatchObject({ status: 200, attempts: 1 })
    expect(await response.body.text()).toBe(event)
    expect(server.connections).toBe(1)
  })

  test('is the error of the call when all tries end so, and says how many there were', async () => {
    const server = await scripted(async (connection) => {
      await connection.request()
      connection.reset()
    })
    const error = await failure(transportWith({ maxAttempts: 4 }).send({ ...request, url: server.url }))
    expect(error).toMatchObject({ code: 'network', context: { attempt: 4 } })
    expect(server.connections).toBe(4)
  })
})

describe('the same Idempotency-Key', () => {
  async function keysOf(calls: (url: string, transport: Transport) => Promise<unknown>): Promise<(string | undefined)[]> {
    const keys: (string | undefined)[] = []
    const server = use(
      await serve(({ headers }, response) => {
        keys.push(headers['idempotency-key'] as string | undefined)
        response.writeHead(503).end()
      })
    )
    await calls(server.url, transportWith())
    return keys
  }

  test('goes with all tries of a call, and another with the next call', async () => {
    const keys = await keysOf(async (url, { send }) => {
      await send({ ...request, url })
      await send({ ...request, url })
    })
    expect(keys).toHaveLength(6)
    expect(new Set(keys.slice(0, 3)).size).toBe(1)
    expect(new Set(keys.slice(3)).size).toBe(1)
    expect(new Set(keys).size).toBe(2)
    expect(keys[0]).toMatch(/^[\w-]{12}-\w+$/)
  })

  test("is the caller's where there is one; a GET has none", async () => {
    const keys = await keysOf(async (url, { send }) => {
      await send({ ...request, url, headers: { 'idempotency-key': 'mine' } })
      await send({ method: 'GET', url, headers: {} })
    })
    expect(keys).toEqual(['mine', 'mine', 'mine', undefined, undefined, undefined])
  })

  test('two layers never make the same one', async () => {
    const keys = new Set<string | undefined>()
    const send: Send = ({ headers }) => {
      keys.add(headers['idempotency-key'])
      return Promise.resolve(responseOf(200))
    }
    for (let layer = 0; layer < 100; layer++) {
      const retried = retry()(send)
      for (let call = 0; call < 100; call++) await retried(request)
    }
    expect(keys.size).toBe(10_000)
  })
})

test('a body that can be read only once is never repeated', async () => {
  const server = await answering({ status: 503 }, { status: 503 })
  async function* once(): AsyncGenerator<Uint8Array> {
    yield Buffer.from('{}')
  }
  expect(await transportWith().send({ ...request, url: server.url, body: once() })).toMatchObject({ status: 503, attempts: 1 })
  expect(server.requests).toBe(1)
})

describe('a provider that is down', () => {
  const seed = 20_261_123

  /** 1,000 calls, 50 at a time; gives how many failed. */
  async function thousandCalls({ send }: Transport, url: string): Promise<number> {
    let left = 1000
    let failed = 0
    async function callOn(): Promise<void> {
      while (left-- > 0) {
        try {
          const { status, body } = await send({ ...request, url })
          await body.text()
          if (status !== 200) failed++
        } catch (error) {
          if (!isMillraceError(error)) throw error
          failed++
        }
      }
    }
    await Promise.all(Array.from({ length: 50 }, callOn))
    return failed
  }

  async function downServer(share: number): Promise<TestServer & { heal(): void; fall(): void }> {
    const random = seededRandom(seed)
    let isDown = true
    const server = await serve((incoming, response) => {
      if (!isDown) response.end('answer')
      else if (random() < share) response.writeHead(503).end('busy')
      else incoming.socket.resetAndDestroy()
    })
    return use(
      Object.assign(server, {
        heal() {
          isDown = false
        },
        fall() {
          isDown = true
        }
      })
    )
  }

  test.each([
    ['503', 1],
    ['resets', 0],
    ['both', 0.5]
  ])(`sees at most 1,200 requests of 1,000 calls, and every call once it is healed: %s (seed ${seed})`, async (_, share) => {
    const server = await downServer(share)
    const transport = transportWith()
    expect(await thousandCalls(transport, server.url)).toBe(1000)
    const { retries, retriesDenied, resent } = transport.stats()
    // The free try after a reset of a reused socket is no retry: the server has refused the socket, not the call.
    expect(server.requests - resent).toBeLessThanOrEqual(1200)
    expect(server.requests - resent).toBe(1000 + retries)
    expect(retries).toBeGreaterThanOrEqual(100)
    expect(retries).toBeLessThanOrEqual(110)
    expect(retriesDenied).toBeGreaterThan(800)

    server.heal()
    expect(await thousandCalls(transport, server.url)).toBe(0)
    // What went well has earned retries again.
    server.fall()
    await transport.send({ ...request, url: server.url }).catch(() => {})
    expect(transport.stats().retries).toBe(retries + 2)
  })

  test('sees far fewer behind a breaker', async () => {
    const server = await downServer(0.5)
    const transport = use(createTransport({ retry: { baseMs: 1 } }))
    expect(await thousandCalls(transport, server.url)).toBe(1000)
    expect(server.requests).toBeLessThanOrEqual(1200)
  })

  test('is tried as often as asked with an infinite reserve', async () => {
    let requests = 0
    const down: Send = () => {
      requests++
      return Promise.resolve(responseOf(503))
    }
    const send = pipe(down, retry({ baseMs: 0, maxMs: 0, budgetReserve: Number.POSITIVE_INFINITY }))
    for (let call = 0; call < 200; call++) await send(request)
    expect(requests).toBe(600)
  })
})

describe('a wait before a retry', () => {
  test("ends with the caller's signal and its reason, leaves no listener, and its retry to the next call", async () => {
    const transport = transportWith({ budgetReserve: 1, budgetRatio: 0 })
    const later = { status: 429, headers: { 'retry-after': '30' }, body: 'later' }
    const server = await answering(later, later, later)
    for (let round = 1; round <= 3; round++) {
      const controller = new AbortController()
      const call = transport.send({ ...request, url: server.url, signal: controller.signal })
      const ended = call.catch((error: unknown) => error)
      await until(() => transport.stats().retries === 1, 'it waits')
      await delay(20)
      const startedAt = performance.now()
      controller.abort('stopped by the test')
      expect(await ended).toBe('stopped by the test')
      expect(performance.now() - startedAt).toBeLessThan(50)
      expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
      expect(server.requests).toBe(round)
      expect(transport.stats()).toMatchObject({ retries: 0, retriesDenied: 0 })
    }
  })

  test('ends with the signal while a refusal is read', async () => {
    const server = await scripted(async (connection) => {
      await connection.request()
      await connection.write(`${responseHead(503, { 'content-length': 100 })}half`)
    })
    const controller = new AbortController()
    const call = transportWith().send({ ...request, url: server.url, signal: controller.signal })
    const ended = call.catch((error: unknown) => error)
    await delay(200)
    const startedAt = performance.now()
    controller.abort('stopped by the test')
    expect(await ended).toBe('stopped by the test')
    expect(performance.now() - startedAt).toBeLessThan(50)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
    await until(() => server.open === 0, 'the socket is closed')
  })

  test('ends with what closes the layer, and leaves no listener and no timer', async () => {
    const probe = probeLeaks()
    const closing = new AbortController()
    const send = pipe(
      (): Promise<HttpResponse> => Promise.resolve(responseOf(429, { headers: { 'retry-after': '30' } })),
      retry({ budgetReserve: 100 }, closing.signal)
    )
    const calls = Array.from({ length: 50 }, () => send(request))
    const all = Promise.allSettled(calls)
    await delay(20)
    const reason = new MillraceError('closed', 'closed', { details: {} })
    closing.abort(reason)
    for (const result of await all) expect(result).toMatchObject({ status: 'rejected', reason })
    expect(reason.context).toEqual({}) // shared by 50 calls: no place for the number of one
    expect(getEventListeners(closing.signal, 'abort')).toHaveLength(0)
    await probe.check()
  })

  test('leaves nothing on either signal when it has passed', async () => {
    const [closing, { signal }] = [new AbortController(), new AbortController()]
    const answers = [responseOf(503), responseOf(503), responseOf(200)]
    const send = pipe(() => Promise.resolve(answers.shift() as HttpResponse), retry({ baseMs: 1 }, closing.signal))
    expect((await send({ ...request, signal })).attempts).toBe(3)
    expect(getEventListeners(closing.signal, 'abort')).toHaveLength(0)
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })

  test('is told as a timeout by the total clock, with the number of requests', async () => {
    const draws = [0, 1]
    const controller = new AbortController()
    const error = timeoutError('total', 50, 50)
    const send = pipe(() => Promise.resolve(responseOf(503)), retry({ baseMs: 5000, random: () => draws.shift() ?? 1 }))
    const call = send({ ...request, signal: controller.signal })
    setTimeout(() => controller.abort(error), 50)
    expect(await failure(call)).toBe(error)
    expect(error.context.attempt).toBe(2)
  })
})

test('a refusal that comes while the layer closes is handed on', async () => {
  const closing = new AbortController()
  const send = pipe(() => Promise.resolve(responseOf(503)), retry({}, closing.signal))
  closing.abort(new Error('closed'))
  expect((await send(request)).status).toBe(503)
})

describe('over any send', () => {
  const details = { status: 500 } as const
  const errors: readonly (readonly [string, boolean, () => Error])[] = [
    ['network', true, () => new MillraceError('network', '', { details: { phase: 'headers' } })],
    ['network, for good', false, () => new MillraceError('network', '', { details: { phase: 'dns' }, retryable: false })],
    ['timeout: connect', true, () => timeoutError('connect', 1, 1)],
    ['timeout: headers', false, () => timeoutError('headers', 1, 1)],
    ['timeout: first-chunk', false, () => timeoutError('first-chunk', 1, 1)],
    ['timeout: idle', false, () => timeoutError('idle', 1, 1)],
    ['timeout: total', false, () => timeoutError('total', 1, 1)],
    ['timeout: queue', false, () => timeoutError('queue', 1, 1)],
    ['protocol: incomplete', true, () => new MillraceError('protocol', '', { details: { reason: 'incomplete' } })],
    ['protocol: malformed', false, () => new MillraceError('protocol', '', { details: { reason: 'malformed' } })],
    [
      'protocol: badly framed',
      true,
      () => new MillraceError('protocol', '', { details: { reason: 'malformed' }, retryable: true })
    ],
    ['protocol: too-large', false, () => new MillraceError('protocol', '', { details: { reason: 'too-large' } })],
    ['protocol: encoding', false, () => new MillraceError('protocol', '', { details: { reason: 'encoding' } })],
    ['protocol: unexpected', false, () => new MillraceError('protocol', '', { details: { reason: 'unexpected' } })],
    ['queue-full', false, () => new MillraceError('queue-full', '', { details: { limit: 1 } })],
    ['circuit-open', false, () => new MillraceError('circuit-open', '', { details: { origin: '', retryAfterMs: 1 } })],
    ['closed', false, () => new MillraceError('closed', '', { details: {} })],
    ['unauthorized', false, () => new MillraceError('unauthorized', '', { details })],
    ['unavailable', false, () => new MillraceError('unavailable', '', { details })],
    ['an error that is not ours', false, () => new Error('a bug')]
  ]
  test.each(errors)('an error (%s) is tried again: %s', async (_, isAgain, make) => {
    let requests = 0
    const error = make()
    const send = pipe(
      (): Promise<HttpResponse> => {
        requests++
        return Promise.reject(error)
      },
      retry({ baseMs: 0 })
    )
    await expect(send(request)).rejects.toBe(error)
    expect(requests).toBe(isAgain ? 3 : 1)
    if (isMillraceError(error)) expect(error.context.attempt).toBe(requests)
  })

  test("the caller's own reason is thrown as it is, whatever it is", async () => {
    for (const reason of ['a text', undefined, new MillraceError('network', '', { details: { phase: 'connect' } })]) {
      let requests = 0
      const send = pipe(
        ({ signal }): Promise<HttpResponse> => {
          requests++
          return Promise.reject(signal?.reason)
        },
        retry({ baseMs: 0 })
      )
      const signal = { aborted: true, reason, addEventListener() {}, removeEventListener() {} } as unknown as AbortSignal
      const thrown = await send({ ...request, signal }).catch((error: unknown) => error)
      expect(thrown).toBe(reason)
      expect(requests).toBe(1)
      if (isMillraceError(thrown)) expect(thrown.context).toEqual({})
    }
  })

  test('a send that throws at once is a rejection', async () => {
    const send = retry()(() => {
      throw new TypeError('a bug')
    })
    await expect(send(request)).rejects.toThrow('a bug')
  })

  test('each try is told its number, behind those that hedges took', async () => {
    const seen: (number | undefined)[] = []
    const answers = [responseOf(503, { attempts: 2 }), responseOf(503, { attempts: 3 }), responseOf(200, { attempts: 5 })]
    const send = pipe(
      (attempted: HttpRequest) => {
        seen.push(attempted.attempt)
        return Promise.resolve(answers.shift() as HttpResponse)
      },
      retry({ baseMs: 0 })
    )
    expect((await send(request)).attempts).toBe(5)
    expect(seen).toEqual([undefined, 3, 4])
  })

  test('a send that does not count is counted for it', async () => {
    const answers = [responseOf(503), responseOf(503), responseOf(200)]
    const send = pipe(() => Promise.resolve(answers.shift() as HttpResponse), retry({ baseMs: 0 }))
    expect((await send(request)).attempts).toBe(3)
  })

  test('the deadline of the request is looked at before each wait', async () => {
    let remainingMs = 1000
    let requests = 0
    const deadline: Deadline = { queued: false, remainingMs: () => remainingMs, [Symbol.dispose]() {} }
    const send = pipe(
      (): Promise<HttpResponse> => {
        requests++
        remainingMs = 30
        return Promise.resolve(responseOf(503))
      },
      retry({ baseMs: 40, random: () => 1 })
    )
    expect((await send({ ...request, deadline })).status).toBe(503)
    expect(requests).toBe(1)
    remainingMs = 2000
    const broken = pipe(
      (): Promise<HttpResponse> => {
        requests++
        return Promise.reject(new MillraceError('network', '', { details: { phase: 'connect' } }))
      },
      retry({ baseMs: 2000, random: () => 1 })
    )
    expect((await failure(broken({ ...request, deadline }))).code).toBe('network')
    expect(requests).toBe(2)
  })

  test('what it took to read a refusal is part of the wait', async () => {
    const slow = (): HttpResponse => {
      async function* late(): AsyncGenerator<readonly Uint8Array[], undefined> {
        await delay(400)
        yield [Buffer.from('slow down')]
      }
      const refusal = responseOf(429, { headers: { 'retry-after-ms': '400' } })
      return { ...refusal, body: { ...refusal.body, [Symbol.asyncIterator]: late } }
    }
    const answers = [slow(), responseOf(200)]
    const send = pipe(() => Promise.resolve(answers.shift() as HttpResponse), retry({ baseMs: 0, random: () => 0 }))
    const { ms } = await timed(() => send(request))
    expect(ms).toBeGreaterThanOrEqual(400)
    expect(ms).toBeLessThan(700)
  })

  test('a refusal whose head asks for too much is handed on unread; a whole minute is not too much', async () => {
    const later = responseOf(429, { headers: { 'retry-after': '60.001' } })
    expect(await retry()(() => Promise.resolve(later))(request)).toBe(later)
    const controller = new AbortController()
    const { layer, stats } = createRetry({ random: () => 0 })
    const send = layer(() => Promise.resolve(responseOf(429, { headers: { 'retry-after': '60' } })))
    const ended = send({ ...request, signal: controller.signal }).catch((error: unknown) => error)
    await delay(50)
    expect(stats()).toEqual({ retries: 1, denied: 0 })
    controller.abort('enough')
    expect(await ended).toBe('enough')
  })

  test('with one attempt nothing is tried again', async () => {
    const { layer, stats } = createRetry({ maxAttempts: 1 })
    expect((await layer(() => Promise.resolve(responseOf(503)))(request)).status).toBe(503)
    expect(stats()).toEqual({ retries: 0, denied: 0 })
  })

  test('what is tried again is given up first: its socket must not stay', async () => {
    let cancelled = 0
    const endless = (): HttpResponse => {
      const response = responseOf(503)
      const piece = new Uint8Array(20_000)
      async function* pieces(): AsyncGenerator<readonly Uint8Array[], undefined> {
        for (;;) yield [piece]
      }
      return { ...response, body: { ...response.body, [Symbol.asyncIterator]: pieces, cancel: () => void cancelled++ } }
    }
    const answers = [endless(), endless(), responseOf(200)]
    const send = pipe(() => Promise.resolve(answers.shift() as HttpResponse), retry({ baseMs: 0 }))
    expect((await send(request)).status).toBe(200)
    expect(cancelled).toBe(2)
  })

  test('the request of the caller is not changed, and one with a key is passed on as it is', async () => {
    const frozen: HttpRequest = Object.freeze({ ...request, headers: Object.freeze({ 'idempotency-key': 'mine' }) })
    const seen: HttpRequest[] = []
    const send = pipe(
      (attempted: HttpRequest) => {
        seen.push(attempted)
        return Promise.resolve(responseOf(seen.length === 1 ? 503 : 200))
      },
      retry({ baseMs: 0 })
    )
    await send(frozen)
    expect(seen[0]).toBe(frozen)
    expect(seen[1]?.headers).toBe(frozen.headers)
  })

  test.each([
    [{ maxAttempts: 0 }, /maxAttempts/],
    [{ maxAttempts: 1.5 }, /maxAttempts/],
    [{ baseMs: -1 }, /baseMs/],
    [{ baseMs: Number.NaN }, /baseMs/],
    [{ baseMs: 10, maxMs: 5 }, /maxMs/],
    [{ budgetRatio: -0.1 }, /budgetRatio/],
    [{ budgetRatio: Number.NaN }, /budgetRatio/],
    [{ budgetReserve: 0 }, /maxAttempts: 1/],
    [{ random: 0.5 }, /random/],
    [{ maxRetries: 3 }, /no option "maxRetries"/]
  ])('options that make no sense are refused: %j', (options, message) => {
    expect(() => retry(options as RetryOptions)).toThrow(message)
  })
})

describe('backOffMs', () => {
  const seed = 20_261_123
  const draws = 100_000

  /** How the draws fall into ten equal parts of `from` to `to`. */
  function spread(from: number, to: number, draw: (random: number) => number): number[] {
    const random = seededRandom(seed)
    const parts = Array.from({ length: 10 }, () => 0)
    for (let index = 0; index < draws; index++) {
      const part = Math.floor(((draw(random()) - from) / (to - from)) * 10)
      parts[part] = (parts[part] ?? 0) + 1
    }
    return parts
  }

  /** Ten parts, none beyond, each within 5 % of a tenth: 5 standard deviations of 100,000 draws. */
  function expectEven(parts: readonly number[]): void {
    expect(parts).toHaveLength(10)
    for (const count of parts) expect(Math.abs(count - draws / 10)).toBeLessThan(draws / 200)
  }

  test.each([
    [1, 500],
    [2, 1000],
    [3, 2000],
    [5, 8000],
    [6, 8000],
    [2000, 8000]
  ])(`draws evenly from all that is below its bound: try %i, %i ms (seed ${seed})`, (tries, boundMs) => {
    expectEven(spread(0, boundMs, (random) => backOffMs({ tries, baseMs: 500, maxMs: 8000, hintMs: undefined, random })))
  })

  test.each([
    ['a long hint', 30_000, 1, 6000],
    ['a short hint', 100, 1, 500],
    ['a short hint, again', 100, 3, 2000],
    ['a hint of zero', 0, 1, 500],
    ['a hint of zero, again', 0, 3, 500]
  ])(`never undercuts %s of %i ms, and spreads who wakes up (try %i: over %i ms; seed ${seed})`, (_, hintMs, tries, spreadMs) => {
    const parts = spread(hintMs, hintMs + spreadMs, (random) => backOffMs({ tries, baseMs: 500, maxMs: 8000, hintMs, random }))
    expectEven(parts)
  })
})

function responseOf(status: number, facts: Partial<HttpResponse> = {}): HttpResponse {
  const body: HttpResponse['body'] = {
    async *[Symbol.asyncIterator]() {},
    text: () => Promise.resolve(''),
    cancel() {}
  }
  return { status, headers: {}, body, attempts: 1, ...facts }
}
