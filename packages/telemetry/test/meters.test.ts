import {
  type ChatRequest,
  type Chunk,
  channels,
  collect,
  MillraceError,
  type Provider,
  sleep,
  type Usage,
  watch
} from '@millrace/core'
import { metrics } from '@opentelemetry/api'
import { MeterProvider, MetricReader } from '@opentelemetry/sdk-metrics'
import { expect, test } from 'vitest'
import { createTelemetry } from '../src/index.ts'
import { overheadBoundaries, secondsBoundaries, tokenBoundaries } from '../src/semconv.ts'
import { answer, createHarness, fails, type Harness, provides, usage } from './harness.ts'

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

test('attempts are timed by address and status; one that its call ended is no error', async () => {
  await using harness = createHarness()
  const attempt = { owner: {}, callId: 'a', attempt: 1, origin: 'https://api.example.com', elapsedMs: 1 }
  const error = new MillraceError('network', 'reset', { details: { phase: 'headers' } })
  channels.attemptEnd.publish({ ...attempt, status: 200 })
  channels.attemptEnd.publish({ ...attempt, status: 200 })
  channels.attemptEnd.publish({ ...attempt, error })
  channels.attemptEnd.publish({ ...attempt, error: new Error('enough'), aborted: true })
  const address = { 'server.address': 'api.example.com' }
  const points = await harness.metric('millrace.attempt.duration')
  expect(points.map(({ count, value, attributes }) => ({ count, value, attributes }))).toEqual([
    { count: 2, value: 0.002, attributes: { ...address, 'http.response.status_code': 200 } },
    { count: 1, value: 0.001, attributes: { ...address, 'error.type': 'network' } },
    { count: 1, value: 0.001, attributes: { ...address, 'millrace.outcome': 'aborted' } }
  ])
})

test('a stream records the time between arrivals of content, a plain answer does not', async () => {
  await using harness = createHarness()
  const slowly: Provider = async function* () {
    for (const chunk of answer) {
      if (chunk.type === 'text') await sleep(15)
      yield chunk
    }
  }
  await collect(harness.telemetry.layer(slowly)(request, {}))
  await collect(harness.telemetry.layer(slowly)(request, { stream: false }))
  const [point, ...rest] = await harness.metric('gen_ai.client.operation.time_per_output_chunk')
  expect(rest).toEqual([])
  expect(point).toMatchObject({
    count: 1,
    boundaries: secondsBoundaries,
    attributes: {
      'gen_ai.operation.name': 'chat',
      'gen_ai.provider.name': 'openai',
      'gen_ai.request.model': 'gpt-5.6',
      'gen_ai.response.model': 'gpt-5.6-2026-10-01'
    }
  })
  expect(point?.value).toBeGreaterThan(0.013)
})

test('own overhead is what the provider and the limits were not waited for', async () => {
  await using harness = createHarness()
  const waits: Provider = async function* (_request, { tally }) {
    await sleep(30)
    tally?.waitedForProvider(15)
    tally?.waited(5)
    yield { type: 'start', provider: 'openai', model: 'gpt-5.6' }
    yield { type: 'note', from: 'limits', facts: { waitedMs: 5 } }
    yield { type: 'text', text: 'Hello' }
    await sleep(30)
    yield { type: 'finish', reason: 'stop' }
  }
  await collect(harness.telemetry.layer(waits)(request, {}))
  const [stream] = await harness.metric('millrace.call.overhead')
  const [first] = await harness.metric('gen_ai.client.operation.time_to_first_chunk')
  expect(stream).toMatchObject({ count: 1, boundaries: overheadBoundaries })
  expect(stream?.value).toBeLessThan((first?.value ?? 0) - 0.019)
  expect(stream?.value).toBeGreaterThan(0.008)
  expect(await harness.metric('millrace.limits.wait')).toMatchObject([{ count: 1, value: 0.005 }])
})

test('money is spent by what was billed and saved by what the cache gave, tokens too by what the budget took out', async () => {
  await using harness = createHarness()
  const price = ({ input }: Usage) => input.uncached / 100
  const layer = watch({}, { price })
  const noted = (state: string, billed: boolean): Provider =>
    provides([
      { type: 'start', provider: 'openai', model: 'gpt-5.6' },
      { type: 'note', from: 'cache', facts: { state } },
      { type: 'note', from: 'tokens', facts: { saved: 7 } },
      { type: 'text', text: 'Hello' },
      { type: 'usage', usage: { ...usage, billed } },
      { type: 'finish', reason: 'stop' }
    ])
  await collect(layer(noted('miss', true))(request, {}))
  await collect(layer(noted('hit', false))(request, {}))
  await collect(layer(noted('joined', false))(request, {}))
  expect(await harness.metric('millrace.cost.spent')).toMatchObject([{ value: 1 }])
  expect(await harness.metric('millrace.cost.saved')).toMatchObject([{ value: 2 }])
  const saved = (await harness.metric('millrace.tokens.saved')).map(({ value, attributes }) => {
    return [attributes['millrace.saved.by'], attributes['gen_ai.token.type'], value]
  })
  expect(saved).toEqual([
    ['fit', 'input', 21],
    ['cache', 'input', 270],
    ['cache', 'output', 96]
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
  expect(await harness.metric('millrace.attempt.duration')).toHaveLength(101)
})

test('models that nobody answered to take no place from those that exist, whatever they failed of', async () => {
  await using harness = createHarness({ maxModels: 4 })
  const failures = [
    new MillraceError('invalid-request', 'no such model', { details: { status: 404 } }),
    new MillraceError('unauthorized', 'no', { details: { status: 401 } }),
    new Error('network')
  ]
  for (let made = 0; made < 30; made++) {
    const failing = fails(failures[made % 3] ?? new Error('x'), answer.slice(0, 1))
    await collect(harness.telemetry.layer(failing)({ ...request, model: `made-up-${made}` }, {})).catch(() => {})
  }
  const models = ['gpt-5.6', 'gpt-5.6-mini', 'gpt-5.6-nano', 'o9']
  for (const model of models) {
    const answered = provides([
      { type: 'start', provider: 'openai', model: `${model}-2026` },
      { type: 'finish', reason: 'stop' }
    ])
    await collect(harness.telemetry.layer(answered)({ ...request, model }, {}))
    await collect(harness.telemetry.layer(fails(new Error('late')))({ ...request, model }, {})).catch(() => {})
  }
  const points = await harness.metric('gen_ai.client.operation.duration')
  const successes = points.filter(({ attributes }) => attributes['millrace.outcome'] === 'success')
  expect(successes.map(({ attributes }) => attributes['gen_ai.request.model'])).toEqual(models)
  expect(successes.map(({ attributes }) => attributes['gen_ai.response.model'])).toEqual(models.map((model) => `${model}-2026`))
  const madeUp = new Set(
    points.map(({ attributes }) => String(attributes['gen_ai.request.model'])).filter((name) => name.startsWith('made'))
  )
  expect(madeUp.size).toBe(2)
})

test('a call without usage, or without a price, is counted under its model', async () => {
  await using harness = createHarness()
  const none = watch({}, { price: () => undefined })
  await collect(none(provides())(request, {}))
  for await (const chunk of none(provides())(request, {})) if (chunk.type === 'text') break
  const labels = { 'gen_ai.operation.name': 'chat', 'gen_ai.provider.name': 'openai', 'gen_ai.request.model': 'gpt-5.6' }
  expect(await harness.metric('millrace.calls.unpriced')).toMatchObject([{ value: 1, attributes: labels }])
  expect(await harness.metric('millrace.calls.unmetered')).toMatchObject([{ value: 1, attributes: labels }])
})

test('what is lost on the way has its series before the first call', async () => {
  await using harness = createHarness()
  expect(await harness.metric('millrace.telemetry.failures')).toMatchObject([{ value: 0 }])
  expect(await harness.metric('millrace.telemetry.dropped')).toMatchObject([{ value: 0 }])
})

test('a usage that is none spoils no sum', async () => {
  await using harness = createHarness()
  const wrong = [
    {},
    null,
    5,
    { ...usage, input: { ...usage.input, uncached: 1e300 } },
    { ...usage, output: { text: Number.NaN, reasoning: 0 } }
  ]
  for (const told of wrong) {
    const chunks = answer.map((chunk) => (chunk.type === 'usage' ? ({ type: 'usage', usage: told as Usage } as const) : chunk))
    await collect(harness.telemetry.layer(provides(chunks))(request, {}))
  }
  await collect(harness.telemetry.layer(provides())(request, {}))
  expect((await harness.metric('gen_ai.client.token.usage')).map(({ value }) => value)).toEqual([135, 48])
  expect((await harness.metric('millrace.calls.unmetered')).map(({ value }) => value)).toEqual([5])
  expect(harness.telemetry.stats()).toEqual({ open: 0, dropped: 0, failures: 0 })
})

test('metrics reach a global provider that is registered after the telemetry was made', async () => {
  class PullReader extends MetricReader {
    protected override async onShutdown(): Promise<void> {}
    protected override async onForceFlush(): Promise<void> {}
  }
  await using telemetry = createTelemetry()
  const reader = new PullReader()
  const meterProvider = new MeterProvider({ readers: [reader] })
  metrics.setGlobalMeterProvider(meterProvider)
  try {
    await collect(telemetry.layer(provides())(request, {}))
    requests(transport({ 'https://a.example.com': counts(1) }))
    const { resourceMetrics } = await reader.collect()
    const names = resourceMetrics.scopeMetrics.flatMap((scope) => scope.metrics.map((metric) => metric.descriptor.name))
    expect(names).toContain('gen_ai.client.operation.duration')
    expect(names).toContain('millrace.pool.sockets')
  } finally {
    metrics.disable()
    await meterProvider.shutdown()
  }
})

const counts = (n: number) => ({
  opened: 5 * n,
  open: 3 * n,
  busy: n,
  queued: 2 * n,
  reused: 7 * n,
  requests: 12 * n,
  breaker: 'closed',
  breakerOpened: n,
  breakerRejected: 4 * n
})

/** What telemetry knows of a transport: an object that publishes, and counts. */
function transport(origins: Record<string, unknown>, more = {}) {
  const stats = { origins, retries: 1, retriesDenied: 2, resent: 3, hedges: 4, hedgesWon: 5, ...more }
  return { stats: () => stats }
}

function requests(owner: object): void {
  channels.attemptStart.publish({ owner, callId: 'a', attempt: 1, method: 'POST', origin: 'https://api.example.com' })
}

const values = async (harness: Harness, name: string) => (await harness.metric(name)).map((point) => point.value)

test('a transport is known by its first request, and read at collection, added up by address', async () => {
  await using harness = createHarness()
  const one = transport({ 'https://api.example.com': counts(1), 'https://api.example.com:8443': counts(10) })
  requests(one)
  requests(one)
  const address = { 'server.address': 'api.example.com' }
  expect(await harness.metric('millrace.pool.sockets')).toMatchObject([
    { value: 11, attributes: { ...address, 'millrace.pool.state': 'busy' } },
    { value: 22, attributes: { ...address, 'millrace.pool.state': 'idle' } }
  ])
  expect(await harness.metric('millrace.pool.queued')).toMatchObject([{ value: 22, attributes: address }])
  expect(await harness.metric('millrace.pool.opened')).toMatchObject([{ value: 55, attributes: address }])
  expect(await harness.metric('millrace.pool.reused')).toMatchObject([{ value: 77, attributes: address }])
  expect(await harness.metric('millrace.pool.requests')).toMatchObject([{ value: 132, attributes: address }])
  expect(await harness.metric('millrace.breaker.opened')).toMatchObject([{ value: 11, attributes: address }])
  expect(await harness.metric('millrace.breaker.rejected')).toMatchObject([{ value: 44, attributes: address }])
  for (const [name, value] of [
    ['retries', 1],
    ['retries_denied', 2],
    ['resent', 3],
    ['hedges', 4],
    ['hedges_won', 5]
  ]) {
    expect(await values(harness, `millrace.transport.${name}`)).toEqual([value])
  }
})

test('a breaker is 1 in the state it is in, and 0 in the others', async () => {
  await using harness = createHarness()
  const origin = { ...counts(1), breaker: 'closed' }
  const one = transport({ 'https://api.example.com': origin })
  requests(one)
  const states = async () =>
    (await harness.metric('millrace.breaker.state')).map(({ attributes, value }) => [attributes['millrace.breaker.state'], value])
  expect(await states()).toEqual([
    ['closed', 1],
    ['open', 0],
    ['half-open', 0]
  ])
  origin.breaker = 'open'
  expect(await states()).toEqual([
    ['closed', 0],
    ['open', 1],
    ['half-open', 0]
  ])
})

test('two transports are added up; what one had counted stays when it is gone, its sockets do not', async () => {
  await using harness = createHarness()
  const stays = transport({ 'https://api.example.com': counts(1) })
  requests(stays)
  let goes: object | undefined = transport({ 'https://api.example.com': counts(10) })
  requests(goes)
  expect(await values(harness, 'millrace.pool.requests')).toEqual([132])
  expect(await values(harness, 'millrace.pool.sockets')).toEqual([11, 22])
  goes = undefined
  await sleep(1) // a WeakRef that was read holds on until the end of its turn
  globalThis.gc?.()
  expect(await values(harness, 'millrace.pool.sockets')).toEqual([1, 2])
  expect(await values(harness, 'millrace.pool.requests')).toEqual([132])
})

test('an address that is gone is told to be empty, its counts stay', async () => {
  await using harness = createHarness()
  const origins: Record<string, unknown> = { 'https://api.example.com': counts(1) }
  const one = transport(origins)
  requests(one)
  expect(await values(harness, 'millrace.pool.queued')).toEqual([2])
  delete origins['https://api.example.com']
  expect(await values(harness, 'millrace.pool.queued')).toEqual([0])
  expect(await values(harness, 'millrace.pool.sockets')).toEqual([0, 0])
  expect(await values(harness, 'millrace.pool.requests')).toEqual([12])
  expect(one.stats().retries).toBe(1)
})

test('an origin that was forgotten and begins again is counted on', async () => {
  await using harness = createHarness()
  const origins: Record<string, unknown> = { 'https://api.example.com': counts(10), 'https://api.example.com:8443': counts(1) }
  const one = transport(origins)
  requests(one)
  expect(await values(harness, 'millrace.pool.requests')).toEqual([132])
  delete origins['https://api.example.com']
  expect(await values(harness, 'millrace.pool.requests')).toEqual([132])
  origins['https://api.example.com'] = counts(2)
  expect(await values(harness, 'millrace.pool.requests')).toEqual([156])
  expect(one.stats().retries).toBe(1)
})

test('a socket that carries many requests is one busy socket', async () => {
  await using harness = createHarness()
  const one = transport({ 'https://h2.example.com': { ...counts(1), open: 1, busy: 40 } })
  requests(one)
  expect(await values(harness, 'millrace.pool.sockets')).toEqual([1, 0])
  expect(one.stats().hedges).toBe(4)
})

test('more than a hundred origins are added up under _OTHER', async () => {
  await using harness = createHarness()
  const origins = Object.fromEntries(Array.from({ length: 250 }, (_, n) => [`https://host-${n}.example.com`, counts(1)]))
  const one = transport(origins)
  requests(one)
  const queued = await harness.metric('millrace.pool.queued')
  expect(queued).toHaveLength(101)
  expect(queued.find((point) => point.attributes['server.address'] === '_OTHER')?.value).toBe(300)
  expect(one.stats().hedges).toBe(4)
})

test('an object whose stats throw is counted and the others are still read', async () => {
  await using harness = createHarness()
  const broken = {
    stats() {
      throw new Error('broken')
    }
  }
  const one = transport({ 'https://a.example.com': counts(1) })
  for (const owner of [broken, one, {}, { stats: () => null }, { stats: 7 }]) requests(owner)
  expect(await values(harness, 'millrace.pool.queued')).toEqual([2])
  expect(harness.telemetry.stats().failures).toBe(1)
  expect([broken, one].map((owner) => typeof owner.stats)).toEqual(['function', 'function'])
})

test('a cache is known by its first lookup, an adapter by its first call', async () => {
  await using harness = createHarness()
  const figures = {
    hits: 1,
    stale: 2,
    joined: 3,
    misses: 4,
    bypassed: 5,
    stored: 6,
    refreshes: 7,
    refreshErrors: 8,
    storeErrors: 9,
    storeSkipped: 10,
    evictions: 11,
    entries: 12,
    bytes: 13,
    tokensSaved: 14,
    moneySaved: null as number | null
  }
  const cache = { stats: () => figures }
  channels.cacheLookup.publish({ owner: cache, callId: 'a', state: 'hit', elapsedMs: 1 })
  const lookups = (await harness.metric('millrace.cache.lookups')).map((p) => [p.attributes['millrace.cache.state'], p.value])
  expect(lookups).toEqual([
    ['hit', 1],
    ['stale', 2],
    ['joined', 3],
    ['miss', 4],
    ['bypass', 5]
  ])
  const rest = [
    'stored',
    'refreshes',
    'refresh_errors',
    'store_errors',
    'store_skipped',
    'evictions',
    'entries',
    'size',
    'tokens_saved'
  ]
  expect(await Promise.all(rest.map(async (name) => await values(harness, `millrace.cache.${name}`)))).toEqual(
    [6, 7, 8, 9, 10, 11, 12, 13, 14].map((value) => [value])
  )
  expect(await values(harness, 'millrace.cache.cost_saved')).toEqual([])
  figures.moneySaved = 0.5
  expect(await values(harness, 'millrace.cache.cost_saved')).toEqual([0.5])

  const adapter = { stats: () => ({ running: 2 }) }
  await collect(watch(adapter)(provides())(request, {}))
  expect(await values(harness, 'millrace.calls.running')).toEqual([2])
  expect([adapter.stats().running, cache.stats().hits]).toEqual([2, 1])
})

test('limits and fallback of an adapter are read with it, by reason and by provider', async () => {
  await using harness = createHarness()
  const refused = { queueFull: 1, queueTimeout: 2, deadline: 3, quota: 4, tooLarge: 5 }
  const limits = { running: 6, queued: 7, granted: 8, refused, refusals: 9, degraded: true, degradedCalls: 10, storeErrors: 11 }
  const near = { name: 'near', asked: 9, answered: 8, failed: 14, passedOver: 15, cooling: 16 }
  const fallback = { calls: 20, movedOn: 12, exhausted: 13, providers: [near, { ...near, name: 'far', failed: 1 }] }
  const adapter = { stats: () => ({ running: 0, limits, fallback }) }
  await collect(watch(adapter)(provides())(request, {}))

  const rest = ['running', 'queued', 'granted', 'provider_refusals', 'degraded', 'degraded_calls', 'store_errors']
  expect(await Promise.all(rest.map(async (name) => await values(harness, `millrace.limits.${name}`)))).toEqual(
    [6, 7, 8, 9, 1, 10, 11].map((value) => [value])
  )
  const reasons = await harness.metric('millrace.limits.refused')
  expect(reasons.map(({ value, attributes }) => [attributes['millrace.limits.reason'], value])).toEqual([
    ['queue-full', 1],
    ['queue-timeout', 2],
    ['deadline', 3],
    ['quota', 4],
    ['too-large', 5]
  ])
  expect(await values(harness, 'millrace.fallback.moved_on')).toEqual([12])
  expect(await values(harness, 'millrace.fallback.exhausted')).toEqual([13])
  const failed = await harness.metric('millrace.fallback.failed')
  expect(failed.map(({ value, attributes }) => [attributes['gen_ai.provider.name'], value])).toEqual([
    ['near', 14],
    ['far', 1]
  ])
  expect(await values(harness, 'millrace.fallback.passed_over')).toEqual([15, 15])
  expect(await values(harness, 'millrace.fallback.cooling')).toEqual([16, 16])
  expect([adapter.stats().running, harness.telemetry.stats().failures]).toEqual([0, 0])
})

test('a process that makes a transport a request keeps none of them', async () => {
  await using telemetry = createTelemetry({ meterProvider: new MeterProvider() })
  const used = (transports: number): number => {
    for (let made = 0; made < transports; made++) requests({ stats: () => ({}), load: Array.from({ length: 1000 }, () => made) })
    globalThis.gc?.()
    return process.memoryUsage().heapUsed
  }
  used(1000)
  await sleep(1)
  const before = used(1000)
  for (let round = 0; round < 20; round++) {
    used(1000)
    await sleep(1)
  }
  expect(used(1000) - before).toBeLessThan(24 * 1024 * 1024) // the last round and its thousand of 8 KB may still be there
  expect(telemetry.stats().failures).toBe(0)
})
