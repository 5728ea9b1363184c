import { getEventListeners } from 'node:events'
import { Agent } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import {
  type Deadline,
  type HttpBody,
  type HttpRequest,
  type HttpResponse,
  linkAbort,
  MillraceError,
  onAbort,
  type Send
} from '@millrace/core'
import { heapAfterGc, probeLeaks, seededRandom } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createHedge, type Hedge, type HedgeOptions } from '../src/hedge.ts'
import { Latencies } from '../src/latencies.ts'
import { isStateless } from '../src/stateless.ts'
import { bufferedBody } from './buffered-body.ts'
import { nodeSend } from './node-send.ts'
import { serve, type TestServer, until } from './serve.ts'

const request: HttpRequest = {
  method: 'POST',
  url: 'http://model.test/v1/chat/completions',
  headers: { 'idempotency-key': 'k1' },
  body: '{"model":"m","messages":[]}'
}
const down = (): MillraceError => new MillraceError('network', 'down', { details: { phase: 'headers' } })

// A loser that rejects late, or a body nobody waits for, must not end the process.
const unhandled: unknown[] = []
const note = (reason: unknown): void => void unhandled.push(reason)
beforeEach(() => void process.on('unhandledRejection', note))
afterEach(async () => {
  await delay(1)
  process.off('unhandledRejection', note)
  if (unhandled.length > 0) throw new Error('unhandled rejections', { cause: unhandled.splice(0) })
})

/** One request as the `Send` under a hedge has it. */
interface Sent {
  readonly request: HttpRequest
  readonly signal: AbortSignal
  answer(status: number, refusal?: number): void
  fail(error: unknown): void
  /** Why the body was cancelled, or `'no'`. */
  cancelled: unknown
}

/** A hedge over a `Send` that the test answers by hand; its requests reject when they are aborted. */
function byHand(): { send: Send; sent: Sent[] } {
  const sent: Sent[] = []
  const send: Send = (made) => {
    const { promise, resolve, reject } = Promise.withResolvers<HttpResponse>()
    const signal = made.signal ?? new AbortController().signal
    onAbort(signal, reject)
    const entry: Sent = {
      request: made,
      signal,
      cancelled: 'no',
      answer(status, refusal) {
        const body: HttpBody = {
          ...bufferedBody(`answer ${made.attempt ?? 1}`),
          cancel: (reason) => void (entry.cancelled = reason)
        }
        resolve({ status, headers: {}, body, attempts: made.attempt ?? 1, ...(refusal === undefined ? {} : { refusal }) })
      },
      fail: reject
    }
    sent.push(entry)
    return promise
  }
  return { send, sent }
}

/** Over `send`, with one quick answer of the route seen, and what `saved` requests bring into the budget. */
async function armed(
  send: Send,
  options: HedgeOptions = {},
  saved = 1,
  url: string = request.url
): Promise<{ hedged: Send; hedge: Hedge }> {
  const hedge = createHedge({ minSamples: 1, minDelayMs: 20, maxExtra: 1, ...options })
  let quick = true
  const hedged = hedge.layer((made) =>
    quick ? Promise.resolve({ status: 200, headers: {}, body: bufferedBody(''), attempts: 1 }) : send(made)
  )
  for (let call = 0; call < saved; call++) await hedged({ ...request, url })
  quick = false
  return { hedged, hedge }
}

async function becomes(sent: readonly Sent[], count: number): Promise<void> {
  await until(() => sent.length >= count, `${count} requests sent`)
}

describe('one slow request', () => {
  test('is sent once more, with the same headers and body, and the second one may win', async () => {
    const { send, sent } = byHand()
    const { hedged, hedge } = await armed(send)
    const answer = hedged({ ...request, attempt: 3 })
    await becomes(sent, 2)
    const [first, second] = sent as [Sent, Sent]
    expect(second.request).toMatchObject({ ...request, attempt: 4 })
    expect(first.request.attempt).toBe(3)
    second.answer(200)
    const response = await answer
    expect(response).toMatchObject({ status: 200, hedge: 'won', attempts: 4 })
    expect(await response.body.text()).toBe('answer 4')
    expect(first.signal.aborted).toBe(true)
    expect(first.signal.reason).toMatchObject({ code: 'closed' })
    expect(second.signal.aborted).toBe(false)
    expect(hedge.stats()).toEqual({ hedges: 1, won: 1, refused: 0 })
  })

  test('wins itself when it is first after all', async () => {
    const { send, sent } = byHand()
    const { hedged, hedge } = await armed(send)
    const answer = hedged(request)
    await becomes(sent, 2)
    sent[0]?.answer(200)
    expect(await answer).toMatchObject({ hedge: 'lost', attempts: 2 })
    expect([sent[0]?.signal.aborted, sent[1]?.signal.aborted]).toEqual([false, true])
    expect(hedge.stats()).toEqual({ hedges: 1, won: 0, refused: 0 })
  })

  test('that answers in time is sent once, and the answer tells of no hedge', async () => {
    const { send, sent } = byHand()
    const { hedged } = await armed(send)
    const answer = hedged(request)
    sent[0]?.answer(200)
    expect(await answer).toEqual({ status: 200, headers: {}, body: expect.anything(), attempts: 1 })
    await delay(60)
    expect(sent).toHaveLength(1)
  })

  test('that fails in time fails at once, for whoever retries', async () => {
    const { send, sent } = byHand()
    const { hedged } = await armed(send, {}, 10)
    const refused = hedged(request)
    sent[0]?.answer(503)
    expect(await refused).toMatchObject({ status: 503, attempts: 1 })
    const broken = hedged(request)
    const error = down()
    sent[1]?.fail(error)
    await expect(broken).rejects.toBe(error)
    expect(error.context).toEqual({})
    await delay(60)
    expect(sent).toHaveLength(2)
  })

  test('is sent again no earlier than the wait', async () => {
    const { send, sent } = byHand()
    const { hedged } = await armed(send, { minDelayMs: 100 })
    const startedAt = performance.now()
    const answer = hedged(request)
    await becomes(sent, 2)
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(99)
    sent[1]?.answer(200)
    await answer
  })
})

test('the wait follows the latencies of the calls, hedged ones from their begin; a query is not part of the route', async () => {
  const { send, sent } = byHand()
  const { hedged } = await armed(send, { percentile: 0.99 }, 10)
  const answer = hedged({ ...request, url: `${request.url}?first` })
  await becomes(sent, 2)
  await delay(80)
  sent[1]?.answer(200) // 100 ms after the first
  await answer
  const startedAt = performance.now()
  const next = hedged({ ...request, url: `${request.url}?next` })
  await becomes(sent, 4)
  expect(performance.now() - startedAt).toBeGreaterThanOrEqual(95)
  sent[3]?.answer(200)
  await next
})

test('both are counted, also over a send that does not count', async () => {
  const { send, sent } = byHand()
  const { hedged } = await armed((made) => send({ ...made, attempt: undefined }))
  const answer = hedged(request)
  await becomes(sent, 2)
  sent[1]?.answer(200)
  expect(await answer).toMatchObject({ hedge: 'won', attempts: 2 })
})

describe('when one of the two fails, the other is waited for', () => {
  const failures: readonly [string, (sent: Sent) => void][] = [
    ...[408, 429, 500, 503, 529].map((status): [string, (sent: Sent) => void] => [`${status}`, (sent) => sent.answer(status)]),
    ['a 200 that holds a 529', (sent) => sent.answer(200, 529)],
    ['an error', (sent) => sent.fail(down())]
  ]
  for (const [name, fails] of failures) {
    test.each([
      [0, 1, 'won'],
      [1, 0, 'lost']
    ])(`${name} of request %i`, async (bad, good, hedge) => {
      const { send, sent } = byHand()
      const { hedged } = await armed(send)
      const answer = hedged(request)
      await becomes(sent, 2)
      fails(sent[bad] as Sent)
      await delay(20)
      sent[good]?.answer(200)
      expect(await answer).toMatchObject({ status: 200, hedge, attempts: 2 })
      // A failure that is a response holds its socket until it is given up.
      if (name !== 'an error') expect(sent[bad]?.cancelled).toBeUndefined()
      expect(sent[good]?.cancelled).toBe('no')
    })
  }

  test.each([400, 401, 404, 422])('but a %i would be the same again: it is the answer', async (status) => {
    const { send, sent } = byHand()
    const { hedged } = await armed(send)
    const answer = hedged(request)
    await becomes(sent, 2)
    sent[0]?.answer(status)
    expect(await answer).toMatchObject({ status, hedge: 'lost' })
    expect(sent[1]?.signal.aborted).toBe(true)
  })
})

describe('when both fail, the failure that came first is told', () => {
  test('a response before an error', async () => {
    const { send, sent } = byHand()
    const { hedged } = await armed(send)
    const answer = hedged(request)
    await becomes(sent, 2)
    sent[1]?.answer(429)
    await delay(5)
    sent[0]?.fail(down())
    const response = await answer
    expect(response).toMatchObject({ status: 429, hedge: 'won', attempts: 2 })
    expect(await response.body.text()).toBe('answer 2')
    expect(sent[1]?.cancelled).toBe('no')
  })

  test('an error before a response, which is given up; the error counts both', async () => {
    const { send, sent } = byHand()
    const { hedged, hedge } = await armed(send)
    const answer = hedged(request)
    await becomes(sent, 2)
    const error = down()
    sent[0]?.fail(error)
    await delay(5)
    sent[1]?.answer(503)
    await expect(answer).rejects.toBe(error)
    expect(error.context.attempt).toBe(2)
    expect(sent[1]?.cancelled).toBeUndefined()
    expect(hedge.stats().won).toBe(0)
  })

  test('an error that is not ours passes unchanged', async () => {
    const { send, sent } = byHand()
    const { hedged } = await armed(send)
    const answer = hedged(request)
    await becomes(sent, 2)
    const error = Object.freeze(new Error('strange'))
    sent[1]?.fail(error)
    sent[0]?.fail(down())
    await expect(answer).rejects.toBe(error)
  })
})

describe('the caller’s abort', () => {
  test.each([
    ['before the second request', 1],
    ['with both under way', 2]
  ])('ends the call %s, with its reason', async (_, requests) => {
    const { send, sent } = byHand()
    const { hedged } = await armed(send)
    const controller = new AbortController()
    const answer = hedged({ ...request, signal: controller.signal })
    await becomes(sent, requests)
    const reason = new Error('enough')
    controller.abort(reason)
    await expect(answer).rejects.toBe(reason)
    await delay(60)
    expect(sent).toHaveLength(requests)
    for (const { signal } of sent) expect(signal.reason).toBe(reason)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })

  test('is told, and not the failure that was waiting for the other request', async () => {
    const { send, sent } = byHand()
    const { hedged } = await armed(send)
    const controller = new AbortController()
    const answer = hedged({ ...request, signal: controller.signal })
    await becomes(sent, 2)
    sent[0]?.answer(503)
    await delay(5)
    const reason = new Error('enough')
    controller.abort(reason)
    await expect(answer).rejects.toBe(reason)
    expect(sent[0]?.cancelled).toBeUndefined()
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })

  test('is told at once, also when one of them is deaf to it', async () => {
    const { send, sent } = byHand()
    const { hedged } = await armed((made) => send(made.attempt === 2 ? { ...made, signal: undefined } : made))
    const controller = new AbortController()
    const answer = hedged({ ...request, signal: controller.signal })
    await becomes(sent, 2)
    const reason = new Error('enough')
    controller.abort(reason)
    await expect(answer).rejects.toBe(reason)
    sent[1]?.answer(200)
    await until(() => sent[1]?.cancelled === undefined, 'its body is cancelled')
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })

  test('is the end: no second request for a first one that is deaf to it', async () => {
    const { send, sent } = byHand()
    const { hedged } = await armed((made) => send({ ...made, signal: undefined }))
    const controller = new AbortController()
    const answer = hedged({ ...request, signal: controller.signal })
    controller.abort()
    await delay(60)
    expect(sent).toHaveLength(1)
    sent[0]?.answer(200)
    await answer
  })

  test('has no listener left for once the whole body has come with the answer', async () => {
    const { hedged } = await armed(async () => ({
      status: 200,
      headers: {},
      body: { ...bufferedBody('all of it'), complete: true },
      attempts: 1
    }))
    const controller = new AbortController()
    const { body } = await hedged({ ...request, signal: controller.signal })
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
    expect(await body.text()).toBe('all of it')
  })

  test('still ends the winner’s body; the listener goes with the body’s end', async () => {
    const { send, sent } = byHand()
    const { hedged } = await armed(send, {}, 10)
    const controller = new AbortController()
    for (const [index, end] of [
      (body: HttpBody) => body.text(),
      async (body: HttpBody) => {
        for await (const _ of body);
      },
      async (body: HttpBody) => body.cancel()
    ].entries()) {
      const answer = hedged({ ...request, signal: controller.signal })
      await becomes(sent, 2 * index + 2)
      sent[2 * index + 1]?.answer(200)
      const { body } = await answer
      expect(getEventListeners(controller.signal, 'abort')).toHaveLength(1)
      await end(body)
      expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
    }
    const answer = hedged({ ...request, signal: controller.signal })
    await becomes(sent, 8)
    sent[7]?.answer(200)
    await answer
    controller.abort()
    expect(sent[7]?.signal.aborted).toBe(true)
  })

  test('has come already: nothing is sent a second time', async () => {
    const { send, sent } = byHand()
    const { hedged } = await armed(send)
    const reason = new Error('enough')
    await expect(hedged({ ...request, signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    await delay(60)
    expect(sent).toHaveLength(1)
  })
})

test('a loser that answers late all the same has its body cancelled', async () => {
  const bodies: Sent[] = []
  const { send, sent } = byHand()
  // Deaf to its abort.
  const { hedged } = await armed((made) => send({ ...made, signal: undefined }))
  const answer = hedged(request)
  await becomes(sent, 2)
  bodies.push(...sent)
  sent[1]?.answer(200)
  await answer
  sent[0]?.answer(200)
  await until(() => bodies[0]?.cancelled === undefined, 'the loser’s body is cancelled')
  expect(bodies[1]?.cancelled).toBe('no')
})

describe('is never sent twice', () => {
  const never = async (changes: Partial<HttpRequest>, options: HedgeOptions = {}): Promise<Hedge> => {
    const { send, sent } = byHand()
    const { hedged, hedge } = await armed(send, options)
    const answer = hedged({ ...request, ...changes })
    await delay(80)
    expect(sent).toHaveLength(1)
    sent[0]?.answer(200)
    expect((await answer).hedge).toBeUndefined()
    return hedge
  }
  test('a body that can be read only once', async () => {
    async function* once(): AsyncGenerator<Uint8Array> {
      yield Buffer.from('{}')
    }
    expect((await never({ body: once() }, { eligible: () => true })).stats().hedges).toBe(0)
  })
  test('a request that leaves something behind at the provider, which `refused` counts', async () => {
    const hedge = await never({ body: '{"store":true}' })
    expect(hedge.stats()).toEqual({ hedges: 0, won: 0, refused: 1 })
  })
  test('what `eligible` does not want, or throws at', async () => {
    expect((await never({}, { eligible: () => false })).stats().refused).toBe(1)
    const hedge = await never(
      {},
      {
        eligible: () => {
          throw new Error('a bug')
        }
      }
    )
    expect(hedge.stats().refused).toBe(1)
  })
  test('on a route that has not answered often enough, on another route or with another method', async () => {
    expect((await never({}, { minSamples: 2 })).stats().hedges).toBe(0)
    await never({ url: 'http://model.test/v1/completions' })
    await never({ url: 'http://other.test/v1/chat/completions' })
    await never({ method: 'GET', body: undefined })
  })
  test('without budget, and then the request goes on as it is', async () => {
    await never({}, { maxExtra: 0.4 }) // 0.8 after the two calls
    const { send, sent } = byHand()
    const { hedged } = await armed(send, { maxExtra: 0.4 })
    const answer = hedged(request)
    expect(sent[0]?.request).toBe(request)
    sent[0]?.answer(200)
    await answer
  })
})

test('a request that waits for a socket of its own is not sent again before it has one', async () => {
  const { send, sent } = byHand()
  const { hedged } = await armed(send)
  const deadline: Deadline = { queued: true, remainingMs: () => 1000, [Symbol.dispose]() {} }
  const answer = hedged({ ...request, deadline })
  await delay(100)
  expect(sent).toHaveLength(1)
  deadline.queued = false
  await becomes(sent, 2)
  expect(sent[1]?.request.deadline).toBeUndefined()
  sent[1]?.answer(200)
  await answer
})

test('a blocked event loop is not taken for a slow server', async () => {
  const server = await serve((_, response) => {
    response.end('answer')
    const end = performance.now() + 100
    while (performance.now() < end); // the answer is on its way, and both timer and socket are seen late
  })
  try {
    const url = `${server.url}/v1/chat/completions`
    const { hedged, hedge } = await armed(nodeSend(), { minDelayMs: 50 }, 10, url)
    for (let call = 0; call < 5; call++) await (await hedged({ ...request, url })).body.text()
    expect(hedge.stats().hedges).toBe(0)
    expect(server.requests).toBe(5)
  } finally {
    await server[Symbol.asyncDispose]()
  }
})

test('a send that throws rejects, armed or not', async () => {
  const reason = new Error('thrown')
  const throwing: Send = () => {
    throw reason
  }
  await expect(createHedge().layer(throwing)(request)).rejects.toBe(reason)
  const { hedged } = await armed(throwing)
  await expect(hedged(request)).rejects.toBe(reason)
})

describe('the latencies of a route', () => {
  test('give nothing before minSamples, and then the nearest rank', () => {
    const latencies = new Latencies(0.95, 20)
    for (let ms = 1; ms <= 19; ms++) latencies.add(ms)
    expect(latencies.percentileMs).toBe(Number.POSITIVE_INFINITY)
    latencies.add(20)
    expect(latencies.percentileMs).toBe(19)
  })
  test('are the latest 500', () => {
    const latencies = new Latencies(0.5, 500)
    for (let index = 0; index < 500; index++) latencies.add(1000)
    expect(latencies.percentileMs).toBe(1000)
    for (let index = 0; index < 249; index++) latencies.add(1)
    expect(latencies.percentileMs).toBe(1000)
    latencies.add(1)
    expect(latencies.percentileMs).toBe(1)
  })
  test('agree with sorting them, for any percentile and with many equal ones (seed 5)', () => {
    const random = seededRandom(5)
    for (let round = 0; round < 20; round++) {
      const percentile = 0.01 + 0.98 * random()
      const minSamples = 1 + Math.floor(500 * random())
      const spread = random() < 0.5 ? 5 : 1000
      const latencies = new Latencies(percentile, minSamples)
      const all: number[] = []
      for (let index = 0; index < 1500; index++) {
        all.push(Math.floor(spread * random()))
        latencies.add(all.at(-1) as number)
        const latest = Float64Array.from(all.slice(-500)).toSorted()
        const rank = latest[Math.ceil(latest.length * percentile) - 1]
        expect(latencies.percentileMs).toBe(all.length < minSamples ? Number.POSITIVE_INFINITY : rank)
      }
    }
  }, 60_000)
})

describe('stateless is', () => {
  const post = (path: string, body: unknown): HttpRequest => ({
    method: 'POST',
    url: `http://model.test${path}`,
    headers: {},
    body: JSON.stringify(body)
  })
  const tool = { type: 'function', function: { name: 'f' } }
  test.each([
    ['a chat completion', post('/v1/chat/completions', { messages: [], stream: true })],
    ['one with functions', post('/v1/chat/completions?api-version=1', { tools: [tool] })],
    [
      'Anthropic messages with tools of the caller',
      post('/v1/messages', { tools: [{ name: 'f' }, { type: 'custom', name: 'g' }] })
    ],
    ['a response that is not stored', post('/v1/responses', { store: false, background: false })],
    ['embeddings', post('/v1/embeddings', { input: 'x' })],
    ['Gemini', post('/v1beta/models/m:streamGenerateContent?alt=sse', { tools: [{ functionDeclarations: [] }] })],
    ['a body of bytes', { ...post('/v1/messages', {}), body: Buffer.from('{}') }],
    ['a GET', { ...post('/v1/batches/b1', {}), method: 'GET' }]
  ] as const)('%s', (_, given) => expect(isStateless(given)).toBe(true))

  test.each([
    ['a stored response', post('/v1/responses', {})],
    ['a stored completion', post('/v1/chat/completions', { store: true })],
    ['a conversation that goes on', post('/v1/responses', { store: false, previous_response_id: 'r1' })],
    ['a background response', post('/v1/responses', { store: false, background: true })],
    ['a search by the provider', post('/v1/responses', { store: false, tools: [{ type: 'web_search' }] })],
    ['one of two tools', post('/v1/messages', { tools: [{ name: 'f' }, { type: 'code_execution_20250825', name: 'c' }] })],
    ['an MCP server', post('/v1/messages', { mcp_servers: [{}] })],
    ['Gemini with a search', post('/v1beta/models/m:generateContent', { tools: [{ googleSearch: {} }] })],
    ['an Assistants message', post('/v1/threads/t1/messages', {})],
    ['a batch', post('/v1/batches', {})],
    ['an unknown path', post('/run', {})],
    ['no JSON', { ...post('/v1/messages', {}), body: 'what' }],
    ['a list', post('/v1/messages', [])],
    ['a DELETE', { ...post('/v1/messages', {}), method: 'DELETE' }],
    ['a PUT', { ...post('/v1/chat/completions', {}), method: 'PUT' }],
    ['no body', { ...post('/v1/messages', {}), body: undefined }]
  ] as const)('not %s', (_, given) => expect(isStateless(given)).toBe(false))
})

describe('refuses', () => {
  test.each([
    [{ maxExtra: 0 }, 'maxExtra must be a share above 0'],
    [{ maxExtra: 5 }, 'maxExtra must be'],
    [{ percentile: 1 }, 'percentile must be a share between 0 and 1'],
    [{ percentile: 95 }, 'percentile must be'],
    [{ minSamples: 0 }, 'minSamples must be a whole number from 1 to 500'],
    [{ minSamples: 501 }, 'minSamples must be'],
    [{ minDelayMs: -1 }, 'minDelayMs must be'],
    [{ minDelayMs: Number.NaN }, 'minDelayMs must be'],
    [{ eligible: true as unknown as () => boolean }, 'eligible must be a function'],
    [{ p95: 1 } as object, 'createHedge has no option "p95"']
  ])('%o', (options, told) => {
    expect(() => createHedge(options)).toThrow(TypeError)
    expect(() => createHedge(options)).toThrow(told)
  })
})

describe('the budget', () => {
  test('begins empty, and is never above its share of the requests, whatever the server does', async () => {
    // Every first request but one is slow and fails, so every one that may be sent again is, and none teaches a longer wait.
    for (const maxExtra of [0.05, 0.1, 0.3, 1]) {
      let requests = 0
      const hedge = createHedge({ maxExtra, minSamples: 1, minDelayMs: 0 })
      const hedged = hedge.layer(({ attempt = 1 }) => {
        requests++
        const response = { status: 200, headers: {}, body: bufferedBody(''), attempts: attempt }
        return attempt === 2 || requests === 1 ? Promise.resolve(response) : delay(60, { ...response, status: 503 })
      })
      for (let round = 0; round < 10; round++) {
        await Promise.all(Array.from({ length: 40 }, () => hedged(request)))
        const calls = 40 * (round + 1)
        expect(requests - calls).toBe(hedge.stats().hedges)
        expect(hedge.stats().hedges).toBeLessThanOrEqual(calls * maxExtra)
      }
      expect(hedge.stats().hedges).toBeGreaterThan(0.5 * 400 * Math.min(maxExtra, 0.25))
    }
  })

  test('saves up ten at most', async () => {
    const { send, sent } = byHand()
    const { hedged, hedge } = await armed(send, { maxExtra: 0.5, minDelayMs: 10 }, 1000)
    const answers = Array.from({ length: 30 }, () => hedged(request))
    await delay(100)
    expect(hedge.stats().hedges).toBe(10)
    for (const { answer } of sent) answer(200)
    await Promise.all(answers)
  })
})

test('keeps at most 100 routes', async () => {
  const hedge = createHedge({ minSamples: 1, minDelayMs: 5, maxExtra: 1 })
  let slow = false
  const hedged = hedge.layer(({ attempt = 1 }) => {
    const response = { status: 200, headers: {}, body: bufferedBody(''), attempts: attempt }
    return slow && attempt === 1 ? delay(60, response) : Promise.resolve(response)
  })
  const ask = (host: number): Promise<HttpResponse> => hedged({ ...request, url: `http://${host}.test/v1/messages` })
  for (let host = 0; host < 100; host++) await ask(host)
  await ask(1)
  await ask(100)
  await ask(101)
  slow = true
  expect((await ask(1)).hedge).toBe('won')
  expect((await ask(3)).hedge).toBe('won')
  expect((await ask(0)).hedge).toBeUndefined() // forgotten, as is 2
})

describe('over real sockets', () => {
  let server: TestServer | undefined
  afterEach(async () => {
    await server?.[Symbol.asyncDispose]()
    server = undefined
  })

  /** Two-faced: every 20th request stalls half a second before its first byte. */
  async function twoFaced(): Promise<TestServer> {
    let count = 0
    server = await serve((_, response) => {
      if (++count % 20 === 0) setTimeout(() => response.end('slow'), 500).unref()
      else response.end('quick')
    })
    return server
  }

  async function latenciesOf(send: Send, url: string, calls: number, atOnce: number): Promise<number[]> {
    const latencies: number[] = []
    let left = calls
    const caller = async (): Promise<void> => {
      while (left-- > 0) {
        const startedAt = performance.now()
        const { status, body } = await send({ ...request, url: `${url}/v1/chat/completions` })
        latencies.push(performance.now() - startedAt)
        expect(status).toBe(200)
        expect(['slow', 'quick']).toContain(await body.text())
      }
    }
    await Promise.all(Array.from({ length: atOnce }, caller))
    return latencies.toSorted((a, b) => a - b)
  }
  const p99 = (sorted: readonly number[]): number => sorted[Math.ceil(sorted.length * 0.99) - 1] ?? 0

  test('the tail goes: p99 falls, for at most 5 % more requests, and the server sees the losers close', async () => {
    const alone = await twoFaced()
    const before = await latenciesOf(nodeSend(), alone.url, 600, 6)
    expect(p99(before)).toBeGreaterThanOrEqual(490)
    await alone[Symbol.asyncDispose]()

    const { url } = await twoFaced()
    const agent = new Agent({ keepAlive: true })
    const hedge = createHedge()
    const hedged = hedge.layer(nodeSend(agent))
    await latenciesOf(hedged, url, 200, 6) // to learn from, and to save up
    const after = await latenciesOf(hedged, url, 600, 6)
    expect(p99(after)).toBeLessThan(p99(before) / 2)
    const { hedges, won } = hedge.stats()
    // Some hedges lose before their socket is open; the server never hears of those.
    expect(server?.requests).toBeGreaterThan(800 + won - 1)
    expect(server?.requests).toBeLessThanOrEqual(800 + hedges)
    expect(hedges).toBeLessThanOrEqual(0.05 * 800)
    expect(won).toBeGreaterThan(20)
    agent.destroy()
    await until(() => server?.open === 0, 'all sockets are closed')
  })

  test('the loser’s socket closes while it waits, the winner’s stays', async () => {
    const closedEarly: string[] = []
    let count = 0
    server = await serve((incoming, response) => {
      const which = ++count
      incoming.socket.on('close', () => closedEarly.push(`${which}`))
      if (which === 1) return // stalls for ever
      response.write('first ')
      setTimeout(() => response.end('and last'), 300)
    })
    const agent = new Agent({ keepAlive: true })
    const url = `${server.url}/v1/chat/completions`
    const { hedged } = await armed(nodeSend(agent), {}, 1, url)
    const { body, hedge } = await hedged({ ...request, url })
    expect(hedge).toBe('won')
    await until(() => closedEarly.length > 0, 'the loser’s socket closes')
    expect(closedEarly).toEqual(['1'])
    expect(await body.text()).toBe('first and last')
    expect(closedEarly).toEqual(['1'])
    agent.destroy()
  })

  test('the caller’s abort closes both sockets within 50 ms', async () => {
    server = await serve(() => {})
    const url = `${server.url}/v1/chat/completions`
    const { hedged } = await armed(nodeSend(), {}, 1, url)
    const controller = new AbortController()
    const answer = hedged({ ...request, url, signal: controller.signal }).catch((error: unknown) => error)
    await until(() => server?.requests === 2, 'both are under way')
    const reason = new Error('enough')
    const abortedAt = performance.now()
    controller.abort(reason)
    expect(await answer).toBe(reason)
    expect(performance.now() - abortedAt).toBeLessThan(50)
    await until(() => server?.open === 0, 'both sockets are closed')
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })
})

describe('in the transport', () => {
  test('the first content wins, not the first head; retry counts both; the loser’s socket closes', async () => {
    let count = 0
    await using server = await serve((_, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(': heartbeat\n\n')
      if (++count !== 3) response.end('data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n')
    })
    await using transport = createTransport({ hedge: { minSamples: 1, maxExtra: 1, minDelayMs: 50, eligible: () => true } })
    const controller = new AbortController()
    const given: HttpRequest = { ...request, url: `${server.url}/v1/chat/completions`, signal: controller.signal }
    for (let call = 0; call < 2; call++) await (await transport.send(given)).body.text()
    const response = await transport.send(given)
    expect(response).toMatchObject({ status: 200, hedge: 'won', attempts: 2 })
    expect(await response.body.text()).toContain('"hi"')
    expect(transport.stats()).toMatchObject({ hedges: 1, hedgesWon: 1 })
    await until(() => server.open === 1, 'the socket of the stalled stream closes')
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })
})

describe('10,000 calls over random latencies, failures and aborts (seed 23)', () => {
  test('each settles exactly once, with the right answer, and nothing stays behind', async () => {
    const random = seededRandom(23)
    const probe = probeLeaks()
    const hedge = createHedge({ maxExtra: 0.3, minDelayMs: 1, percentile: 0.6 })
    const shared = new AbortController() // some calls share a signal that never aborts
    let requests = 0
    let open = 0 // bodies neither read nor given up, and requests under way
    const outcomes = { answered: 0, refused: 0, failed: 0, aborted: 0, won: 0, lost: 0 }

    const send: Send = ({ headers, signal, attempt = 1 }) => {
      requests++
      open++
      const { promise, resolve, reject } = Promise.withResolvers<HttpResponse>()
      const linked = linkAbort(signal)
      const done = (): void => {
        if (ended) return
        ended = true
        open--
        clearTimeout(timer)
        linked[Symbol.dispose]()
      }
      let ended = false
      const draw = random()
      const timer = setTimeout(
        () => {
          if (draw < 0.1) {
            done()
            reject(down())
            return
          }
          const text = headers.call ?? ''
          const body: HttpBody = {
            async *[Symbol.asyncIterator]() {
              try {
                linked.signal.throwIfAborted()
                yield [new TextEncoder().encode(text)]
              } finally {
                done()
              }
            },
            async text() {
              done()
              linked.signal.throwIfAborted()
              return text
            },
            cancel: done
          }
          resolve({ status: draw < 0.2 ? 503 : draw < 0.22 ? 400 : 200, headers: {}, body, attempts: attempt })
        },
        random() < 0.2 ? 60 + 80 * random() : 10 * random()
      )
      onAbort(linked.signal, (reason) => {
        if (draw > 0.95) return // deaf: it answers all the same
        done()
        reject(reason)
      })
      return promise
    }
    const hedged = hedge.layer(send)

    async function call(index: number): Promise<void> {
      const own = random() < 0.15 ? new AbortController() : undefined
      const reason = new Error(`abort ${index}`)
      const timer = own === undefined ? undefined : setTimeout(() => own.abort(reason), 60 * random())
      const signal = own?.signal ?? (random() < 0.5 ? shared.signal : undefined)
      try {
        const response = await hedged({ ...request, headers: { call: `${index}` }, signal })
        expect([200, 400, 503]).toContain(response.status)
        expect(response.attempts).toBe(response.hedge === undefined ? 1 : 2)
        if (response.hedge !== undefined) outcomes[response.hedge]++
        if (own?.signal.aborted === true) {
          response.body.cancel()
          return
        }
        clearTimeout(timer)
        const text = random() < 0.5 ? await response.body.text() : await read(response.body)
        expect(text).toBe(`${index}`)
        outcomes[response.status === 200 ? 'answered' : 'refused']++
      } catch (error) {
        if (error === reason) outcomes.aborted++
        else {
          expect(error).toMatchObject({ code: 'network' })
          outcomes.failed++
        }
      } finally {
        clearTimeout(timer)
        if (own !== undefined) expect(getEventListeners(own.signal, 'abort')).toHaveLength(0)
      }
    }

    let next = 0
    let settled = 0
    const caller = async (): Promise<void> => {
      while (next < 10_000) {
        await call(next++)
        settled++
      }
    }
    await Promise.all(Array.from({ length: 200 }, caller))
    expect(settled).toBe(10_000)
    const { hedges, won } = hedge.stats()
    expect(requests).toBe(10_000 + hedges)
    expect(hedges).toBeLessThanOrEqual(3000)
    expect(won).toBeLessThanOrEqual(hedges)
    expect(getEventListeners(shared.signal, 'abort')).toHaveLength(0)
    await until(() => open === 0, 'every request and every body is over')
    await probe.check()
    // The walk has been everywhere, or it proves nothing.
    for (const count of Object.values(outcomes)) expect(count).toBeGreaterThan(20)
  }, 60_000)

  test('keeps nothing of a call', async () => {
    const hedge = createHedge({ minSamples: 1, maxExtra: 1, minDelayMs: 1000 })
    const controller = new AbortController()
    const hedged = hedge.layer(() => Promise.resolve({ status: 200, headers: {}, body: bufferedBody('x'), attempts: 1 }))
    const many = async (): Promise<void> => {
      for (let call = 0; call < 10_000; call++) {
        const { body } = await hedged({ ...request, signal: controller.signal })
        await body.text()
      }
    }
    await many()
    const before = await heapAfterGc()
    await many()
    expect((await heapAfterGc()) - before).toBeLessThan(500_000)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })
})

async function read(body: HttpBody): Promise<string> {
  const pieces: Uint8Array[] = []
  for await (const batch of body) pieces.push(...batch)
  return Buffer.concat(pieces).toString()
}
