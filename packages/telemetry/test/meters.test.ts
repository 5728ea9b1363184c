import { type ChatRequest, type Chunk, channels, collect, MillraceError, type Provider } from '@millrace/core'
import { metrics } from '@opentelemetry/api'
import { MeterProvider, MetricReader } from '@opentelemetry/sdk-metrics'
import { expect, test } from 'vitest'
import { createTelemetry } from '../src/index.ts'
import { secondsBoundaries, tokenBoundaries } from '../src/semconv.ts'
import { createHarness, fails, provides, usage } from './harness.ts'

const request: ChatRequest = { model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hi' }] }

test('a call records its duration, its time to first content and its billed tokens', async () => {
  await using harness = createHarness()
  await collect(harness.telemetry.layer(provides())(request, {}))
  const common = {
    'gen_ai.operation.name': 'chat',
    'gen_ai.provider.name': 'openai',
    'gen_ai.request.model': 'gpt-5.6',
    'gen_ai.response.model': 'gpt-5.6-2026-10-01'
  }
  const durations = await harness.metric('gen_ai.client.operation.duration')
  expect(durations).toMatchObject([{ count: 1, boundaries: secondsBoundaries }])
  expect(durations[0]?.attributes).toEqual({ ...common, 'millrace.outcome': 'success' })
  const firsts = await harness.metric('gen_ai.client.operation.time_to_first_chunk')
  expect(firsts).toMatchObject([{ count: 1, attributes: common, boundaries: secondsBoundaries }])
  expect(await harness.metric('gen_ai.client.token.usage')).toMatchObject([
    { value: 135, boundaries: tokenBoundaries, attributes: { ...common, 'gen_ai.token.type': 'input' } },
    { value: 48, attributes: { ...common, 'gen_ai.token.type': 'output' } }
  ])
})

test('an answer from the cache counts no tokens and is told apart in the duration', async () => {
  await using harness = createHarness()
  const hit: readonly Chunk[] = [
    { type: 'start', provider: 'openai', model: 'gpt-5.6' },
    { type: 'note', from: 'cache', facts: { state: 'hit' } },
    { type: 'text', text: 'Hello' },
    { type: 'usage', usage: { ...usage, billed: false } },
    { type: 'finish', reason: 'stop' }
  ]
  await collect(harness.telemetry.layer(provides(hit))(request, {}))
  expect(await harness.metric('gen_ai.client.token.usage')).toEqual([])
  expect(await harness.metric('gen_ai.client.operation.duration')).toMatchObject([
    { attributes: { 'millrace.cache.state': 'hit' } }
  ])
})

test('a call with stream: false has no time to first chunk', async () => {
  await using harness = createHarness()
  await collect(harness.telemetry.layer(provides())(request, { stream: false }))
  expect(await harness.metric('gen_ai.client.operation.time_to_first_chunk')).toEqual([])
})

test('a failed call is in the duration under the code of its error', async () => {
  await using harness = createHarness()
  const error = new MillraceError('overloaded', 'try later', { details: { status: 529 } })
  await expect(collect(harness.telemetry.layer(fails(error))(request, {}))).rejects.toBe(error)
  expect(await harness.metric('gen_ai.client.operation.duration')).toMatchObject([
    { count: 1, attributes: { 'error.type': 'overloaded', 'millrace.outcome': 'error' } }
  ])
})

test('attempts and cache lookups are counted by status and by state', async () => {
  await using harness = createHarness()
  const attempt = { owner: {}, callId: 'a', attempt: 1, origin: 'https://api.example.com', elapsedMs: 1 }
  const error = new MillraceError('network', 'reset', { details: { phase: 'headers' } })
  channels.attemptEnd.publish({ ...attempt, status: 200 })
  channels.attemptEnd.publish({ ...attempt, status: 200 })
  channels.attemptEnd.publish({ ...attempt, error })
  expect(await harness.metric('millrace.attempts')).toMatchObject([
    { value: 2, attributes: { 'server.address': 'api.example.com', 'http.response.status_code': 200 } },
    { value: 1, attributes: { 'server.address': 'api.example.com', 'error.type': 'network' } }
  ])
  channels.cacheLookup.publish({ owner: {}, callId: 'a', state: 'joined', elapsedMs: 1 })
  expect(await harness.metric('millrace.cache.lookups')).toMatchObject([
    { value: 1, attributes: { 'millrace.cache.state': 'joined' } }
  ])
})

test('ten thousand users with ids, tenants and models of their own make a bounded number of series', async () => {
  await using harness = createHarness({ maxModels: 20 })
  const echo: Provider = async function* (asked) {
    yield { type: 'start', provider: 'openai', model: asked.model }
    yield { type: 'usage', usage }
    yield { type: 'finish', reason: 'stop' }
  }
  const watched = harness.telemetry.layer(echo)
  for (let user = 0; user < 10_000; user++) {
    await collect(watched({ ...request, model: `model-${user}` }, { tenant: `tenant-${user}`, callId: `call-${user}` }))
    const attempt = { owner: {}, callId: `call-${user}`, attempt: 1, origin: `https://host-${user}.example.com` }
    channels.attemptEnd.publish({ ...attempt, status: 200, elapsedMs: 1 })
  }
  expect(await harness.metric('gen_ai.client.operation.duration')).toHaveLength(21)
  expect(await harness.metric('gen_ai.client.token.usage')).toHaveLength(42)
  expect(await harness.metric('millrace.attempts')).toHaveLength(101)
})

test('a model that was refused as invalid takes no place among the labels', async () => {
  await using harness = createHarness({ maxModels: 2 })
  const refused = new MillraceError('invalid-request', 'no such model', { details: { status: 404 } })
  for (const model of ['made-up-1', 'made-up-2', 'made-up-3']) {
    await collect(harness.telemetry.layer(fails(refused))({ ...request, model }, {})).catch(() => {})
  }
  const answered = provides([
    { type: 'start', provider: 'openai', model: 'gpt-5.6' },
    { type: 'finish', reason: 'stop' }
  ])
  await collect(harness.telemetry.layer(answered)(request, {}))
  const models = (await harness.metric('gen_ai.client.operation.duration')).map((p) => p.attributes['gen_ai.request.model'])
  expect(models).toEqual(['_OTHER', 'gpt-5.6'])
})

test('metrics reach a global provider that is registered after the telemetry was made', async () => {
  class PullReader extends MetricReader {
    protected override async onShutdown(): Promise<void> {}
    protected override async onForceFlush(): Promise<void> {}
  }
  await using telemetry = createTelemetry()
  telemetry.observe({ pool: () => ({ origins: { 'https://a.example.com': counts(1) } }) })
  const reader = new PullReader()
  const meterProvider = new MeterProvider({ readers: [reader] })
  metrics.setGlobalMeterProvider(meterProvider)
  try {
    await collect(telemetry.layer(provides())(request, {}))
    const { resourceMetrics } = await reader.collect()
    const names = resourceMetrics.scopeMetrics.flatMap((scope) => scope.metrics.map((metric) => metric.descriptor.name))
    expect(names).toContain('gen_ai.client.operation.duration')
    expect(names).toContain('millrace.pool.sockets')
  } finally {
    metrics.disable()
    await meterProvider.shutdown()
  }
})

const counts = (n: number) => ({ opened: 5 * n, open: 3 * n, busy: n, queued: 2 * n, reused: 7 * n, requests: 12 * n })

test('an observed pool is read at collection, added up by address, and empty once it is let go', async () => {
  await using harness = createHarness()
  const stop = harness.telemetry.observe({
    pool: () => ({ origins: { 'https://api.example.com': counts(1), 'https://api.example.com:8443': counts(10) } })
  })
  const address = { 'server.address': 'api.example.com' }
  expect(await harness.metric('millrace.pool.sockets')).toMatchObject([
    { value: 11, attributes: { ...address, 'millrace.pool.state': 'busy' } },
    { value: 22, attributes: { ...address, 'millrace.pool.state': 'idle' } }
  ])
  expect(await harness.metric('millrace.pool.queued')).toMatchObject([{ value: 22, attributes: address }])
  expect(await harness.metric('millrace.pool.opened')).toMatchObject([{ value: 55, attributes: address }])
  expect(await harness.metric('millrace.pool.reused')).toMatchObject([{ value: 77, attributes: address }])
  expect(await harness.metric('millrace.pool.requests')).toMatchObject([{ value: 132, attributes: address }])
  stop()
  const values = async (name: string) => (await harness.metric(name)).map((point) => point.value)
  expect(await values('millrace.pool.sockets')).toEqual([0, 0])
  expect(await values('millrace.pool.queued')).toEqual([0])
  expect(await values('millrace.pool.requests')).toEqual([132])
})

test('a socket that carries many requests is one busy socket', async () => {
  await using harness = createHarness()
  harness.telemetry.observe({ pool: () => ({ origins: { 'https://h2.example.com': { ...counts(1), open: 1, busy: 40 } } }) })
  expect((await harness.metric('millrace.pool.sockets')).map((point) => point.value)).toEqual([1, 0])
})

test('more than a hundred origins are added up under _OTHER', async () => {
  await using harness = createHarness()
  const origins = Object.fromEntries(Array.from({ length: 250 }, (_, n) => [`https://host-${n}.example.com`, counts(1)]))
  harness.telemetry.observe({ pool: () => ({ origins }) })
  const queued = await harness.metric('millrace.pool.queued')
  expect(queued).toHaveLength(101)
  expect(queued.find((point) => point.attributes['server.address'] === '_OTHER')?.value).toBe(300)
})

test('a pool that throws is counted and the others are still read', async () => {
  await using harness = createHarness()
  harness.telemetry.observe({
    pool: () => {
      throw new Error('broken')
    }
  })
  harness.telemetry.observe({ pool: () => ({ origins: { 'https://a.example.com': counts(1) } }) })
  expect(await harness.metric('millrace.pool.queued')).toMatchObject([{ value: 2 }])
  expect(harness.telemetry.stats().failures).toBe(1)
})
