import { setTimeout as delay } from 'node:timers/promises'
import { createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { createCache } from '@millrace/cache'
import { type ChatRequest, channels } from '@millrace/core'
import { createLimiter } from '@millrace/limits'
import { startScriptedProvider } from '@millrace/testkit'
import { createFetch, createTransport } from '@millrace/transport'
import { expect, test } from 'vitest'
import { type CallRecord, createRecorder } from '../src/recorder.ts'

const path = '/v1/chat/completions'
const ask = (content: string): ChatRequest => ({
  model: 'scripted-large',
  messages: [{ role: 'user', content }]
})

async function startCalls(fault: 'none' | 'rate-limit' = 'none') {
  const provider = await startScriptedProvider({ tokensPerSecond: 400, firstTokenMs: 20, reply: () => 'word '.repeat(20) })
  provider.setFault(fault)
  const limiter = createLimiter({ limits: [{ concurrency: 1 }], queueMs: 5000 })
  const transport = createTransport({ limits: limiter.send, retry: { maxAttempts: 2, baseMs: 1 } })
  const adapter = createAdapter({
    provider: openai({ baseURL: provider.url, apiKey: 'k' }),
    transport,
    limits: limiter,
    cache: createCache({ scope: 'test' }),
    price: () => 0.5
  })
  return {
    adapter,
    transport,
    url: provider.url,
    async [Symbol.asyncDispose]() {
      for (const one of [adapter, transport, limiter, provider]) await one[Symbol.asyncDispose]()
    }
  }
}

const names = ({ spans }: CallRecord): readonly string[] => spans.map(({ name }) => name)
const span = ({ spans }: CallRecord, named: string) => spans.find(({ name }) => name === named)

test('a stream is a record with its spans in order, its tokens and its price; a hit has no attempt', async () => {
  await using calls = await startCalls()
  using recorder = createRecorder()
  for (const id of ['first', 'second']) {
    const record = recorder.begin({ id, path, arrivedAt: performance.now() })
    for await (const _ of calls.adapter.stream(ask('a'), { callId: id }));
    record.end(200, 'success')
  }
  const [hit, miss] = recorder.calls() as [CallRecord, CallRecord]
  expect(miss).toMatchObject({ id: 'first', cache: 'miss', attempts: 1, status: 200, outcome: 'success', stream: true, path })
  expect(miss).toMatchObject({ model: 'scripted-large', outputTokens: expect.any(Number), cost: 0.5, saved: undefined })
  expect(names(miss)).toEqual(['cache', 'attempt 1', 'first text', 'stream'])
  expect(span(miss, 'attempt 1')).toMatchObject({ told: '200', failed: false })
  for (const { startMs, endMs = Number.NaN } of miss.spans) {
    expect(startMs).toBeGreaterThanOrEqual(0)
    expect(endMs).toBeGreaterThanOrEqual(startMs)
    expect(endMs).toBeLessThanOrEqual(miss.totalMs as number)
  }
  expect(span(miss, 'first text')?.endMs).toBe(miss.firstTextMs)
  expect(span(miss, 'attempt 1')?.endMs).toBeLessThanOrEqual(miss.firstTextMs as number)
  expect(Math.abs(Date.now() - miss.at)).toBeLessThan(60_000)

  expect(hit).toMatchObject({ id: 'second', cache: 'hit', attempts: 0, cost: undefined, saved: 0.5 })
  expect(names(hit)).toEqual(['cache', 'first text', 'stream'])
  expect(span(hit, 'cache')?.told).toBe('hit')
  expect(recorder.failures).toBe(0)
})

test('refused attempts show as failed, each with its status, and the record as an error', async () => {
  await using calls = await startCalls('rate-limit')
  using recorder = createRecorder()
  const record = recorder.begin({ id: 'refused', path, arrivedAt: performance.now() })
  await expect(calls.adapter.complete(ask('a'), { callId: 'refused' })).rejects.toMatchObject({ code: 'rate-limited' })
  record.end(429, 'error')
  const [call] = recorder.calls() as [CallRecord]
  expect(call).toMatchObject({
    outcome: 'error',
    status: 429,
    attempts: call.spans.filter(({ name }) => name.startsWith('att')).length
  })
  expect(call.attempts).toBeGreaterThan(0)
  expect(span(call, 'attempt 1')).toMatchObject({ told: '429', failed: true })
})

test('what waited for a limit shows so, before its attempt', async () => {
  await using calls = await startCalls()
  using recorder = createRecorder()
  await Promise.all(
    ['a', 'b'].map(async (id) => {
      const record = recorder.begin({ id, path, arrivedAt: performance.now() })
      await calls.adapter.complete(ask(id), { callId: id })
      record.end(200, 'success')
    })
  )
  const waited = recorder.calls().filter((call) => names(call).includes('limits')) as [CallRecord]
  expect(waited).toHaveLength(1)
  const limits = span(waited[0], 'limits')
  expect(limits?.endMs).toBe(span(waited[0], 'attempt 1')?.startMs)
  expect((limits?.endMs as number) - (limits?.startMs as number)).toBeGreaterThan(10)
})

test('a call through a fetch door has the spans that are told of it, and the words of its route', async () => {
  await using calls = await startCalls()
  using recorder = createRecorder()
  const cache = createCache({ scope: 'test' })
  const options = () => ({ callId: 'door' })
  const fetch = cache.fetch(createFetch(calls.transport.send, { options }), { options })
  const record = recorder.begin({ id: 'door', path: '/v1/embeddings', arrivedAt: performance.now() })
  record.tell({ provider: 'near', stream: false, inputTokens: undefined })
  const init = { method: 'POST', headers: { 'content-type': 'application/json' } }
  const response = await fetch(`${calls.url}/embeddings`, { ...init, body: JSON.stringify({ model: 'e', input: 'x' }) })
  await response.text()
  record.end(response.status, 'success')
  await cache.close()
  const [call] = recorder.calls() as [CallRecord]
  expect(call).toMatchObject({ provider: 'near', cache: 'miss', attempts: 1, outcome: 'success' })
  expect(names(call)).toEqual(['cache', 'attempt 1'])
  expect(span(call, 'attempt 1')?.told).toBe('200')
})

test('what a fetch door waited for a limit is a span before its attempt, and a failed one where nothing was sent', async () => {
  await using calls = await startCalls()
  using recorder = createRecorder()
  const arrivedAt = performance.now() - 200
  const sent = recorder.begin({ id: 'sent', path, arrivedAt })
  const fetch = createFetch(calls.transport.send, { options: () => ({ callId: 'sent' }) })
  await (await fetch(`${calls.url}/models`)).text()
  sent.tell({ waitedMs: 150 })
  sent.end(200, 'success')
  const refused = recorder.begin({ id: 'refused', path, arrivedAt })
  refused.tell({ waitedMs: 150 })
  refused.end(429, 'error')
  const [last, first] = recorder.calls() as [CallRecord, CallRecord]
  expect(names(first)).toEqual(['limits', 'attempt 1'])
  expect(span(first, 'limits')).toEqual({ name: 'limits', startMs: expect.any(Number), endMs: span(first, 'attempt 1')?.startMs })
  expect(last.spans).toEqual([{ name: 'limits', startMs: expect.any(Number), endMs: last.totalMs, failed: true }])
  expect(first).not.toHaveProperty('waitedMs')
})

test('a batch adds up its lines; one that fails is no failure of all; where others answer too nothing is told', async () => {
  await using calls = await startCalls()
  using recorder = createRecorder()
  for (const [at, id] of ['req_a-1', 'req_b-1'].entries()) {
    const record = recorder.begin({ id, path: '/v1/batch', arrivedAt: performance.now() })
    if (at === 1) record.tell({ isShared: true })
    await Promise.all([0, 1].map((line) => calls.adapter.complete(ask(`${at} ${line}`), { callId: `${id}-${line}` })))
    const late = { callId: `${id}-2`, timeouts: { totalMs: 5 } }
    await expect(calls.adapter.complete(ask(`${at} late`), late)).rejects.toMatchObject({ code: 'timeout' })
    record.end(200, 'success')
  }
  const [shared, whole] = recorder.calls() as [CallRecord, CallRecord]
  expect(whole).toMatchObject({ id: 'req_a-1', outcome: 'success', cost: 1 })
  expect(whole).not.toHaveProperty('overheadMs')
  expect(whole.outputTokens).toBeGreaterThan(20)
  // Whether the late one was sent is a matter of time.
  expect(whole.attempts).toBeGreaterThanOrEqual(2)
  expect(names(whole).filter((name) => name.startsWith('attempt'))).toHaveLength(whole.attempts as number)
  expect(shared).toMatchObject({ id: 'req_b-1', outcome: 'success', spans: [] })
  for (const name of ['attempts', 'inputTokens', 'outputTokens', 'cost', 'isShared'] as const) {
    expect(shared[name as 'attempts']).toBeUndefined()
  }
  // A call that comes later is nobody's.
  await calls.adapter.complete(ask('later'), { callId: 'req_a-1-3' })
  expect(recorder.calls()[1]?.attempts).toBe(whole.attempts)
})

test('a stream that fails behind its head is an error, whatever its status was', async () => {
  await using calls = await startCalls()
  using recorder = createRecorder()
  const record = recorder.begin({ id: 'left', path, arrivedAt: performance.now() })
  const stream = calls.adapter.stream(ask('a'), { callId: 'left', timeouts: { totalMs: 60 } })
  await expect(
    (async () => {
      for await (const _ of stream);
    })()
  ).rejects.toMatchObject({ code: 'timeout' })
  record.end(200, 'success')
  expect(recorder.calls()).toMatchObject([{ status: 200, outcome: 'error' }])
})

test('a call that outlives its response still brings its tokens; its spans end with the response', async () => {
  await using calls = await startCalls()
  using recorder = createRecorder()
  const record = recorder.begin({ id: 'resumable', path, arrivedAt: performance.now() })
  const reading = (async () => {
    for await (const _ of calls.adapter.stream(ask('a'), { callId: 'resumable' }));
  })()
  await expect.poll(() => recorder.calls()[0]?.firstTextMs).toBeGreaterThan(0)
  expect(recorder.calls()).toMatchObject([{ outcome: 'running', totalMs: undefined }])
  expect(span(recorder.calls()[0] as CallRecord, 'stream')?.endMs).toBeUndefined()
  record.end(200, 'aborted')
  await reading
  const [call] = recorder.calls() as [CallRecord]
  expect(call).toMatchObject({ outcome: 'aborted', outputTokens: expect.any(Number), cost: 0.5 })
  expect(span(call, 'stream')?.endMs).toBe(call.totalMs)
})

test('the last fifty calls are kept, without looks at the gateway and without calls of others', async () => {
  await using calls = await startCalls()
  using recorder = createRecorder()
  await calls.adapter.complete(ask('elsewhere'), { callId: 'another gateway' })
  for (const looked of ['/v1/live', '/v1/stats', '/v1/faults', '/metrics', '/favicon.ico']) {
    recorder.begin({ id: looked, path: looked, arrivedAt: 0 }).end(200, 'success')
  }
  expect(recorder.calls()).toEqual([])
  for (let n = 0; n < 60; n++) recorder.begin({ id: `r${n}`, path, arrivedAt: performance.now() }).end(200, 'success')
  expect(recorder.calls().map(({ id }) => id)).toEqual(Array.from({ length: 50 }, (_, n) => `r${59 - n}`))
})

test('a message that cannot be read is counted and ends nothing; behind the end nobody listens', async () => {
  const before = channels.callEnd.hasSubscribers
  const recorder = createRecorder()
  recorder.begin({ id: 'odd', path, arrivedAt: performance.now() })
  channels.callEnd.publish({ owner: {}, callId: 'odd' } as never)
  await delay(1)
  expect(recorder.failures).toBe(1)
  recorder[Symbol.dispose]()
  expect(channels.callEnd.hasSubscribers).toBe(before)
})
