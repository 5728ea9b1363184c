import type { AdapterStats } from '@millrace/adapter'
import { startOtlpSink, startScriptedProvider } from '@millrace/testkit'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { readConfig } from '../src/config.ts'
import { startService } from '../src/service.ts'
import { askThrice, drive, type Rig, readMetrics, type Series, startRig, sumOf } from './metrics-rig.ts'

const seed = 7
const duration = 'gen_ai_client_operation_duration'
const fromCache = { millrace_cache_state: /^(hit|stale|joined)$/ }
const fromProvider = { millrace_cache_state: /^(?!hit|stale|joined)/ }
const success = { millrace_outcome: 'success' }

describe(`after a mix of calls (seed ${seed}), /metrics and /v1/stats tell the same`, () => {
  let rig: Rig
  let calls: number
  let stats: AdapterStats
  let series: readonly Series[]
  const sum = (name: string, where: Readonly<Record<string, string | RegExp>> = {}): number => sumOf(series, name, where)
  const mean = (name: string, where: Readonly<Record<string, string | RegExp>> = {}): number =>
    (1000 * sum(`${name}_sum`, where)) / sum(`${name}_count`, where)

  beforeAll(async () => {
    rig = await startRig({ cache: { ttlMs: 1000, staleWhileRevalidateMs: 60_000, maxEntries: 12 } })
    calls = (await drive(rig, seed, 120)) + (await askThrice(rig, 1000))
    ;({ stats, series } = await rig.read())
  })
  afterAll(() => rig[Symbol.asyncDispose]())

  test('the mix had everything in it', () => {
    expect(stats.calls).toBe(calls)
    const { hits = 0, stale = 0, joined = 0, misses = 0, evictions = 0 } = stats.cache ?? {}
    const { succeeded, failed, aborted, retries, tokensFitted, moneySpent, moneySaved } = stats
    const counts = {
      hits,
      stale,
      joined,
      misses,
      evictions,
      succeeded,
      failed,
      aborted,
      retries,
      tokensFitted,
      moneySpent,
      moneySaved
    }
    for (const [name, count] of Object.entries(counts)) expect(count, name).toBeGreaterThan(0)
  })

  test('calls, by how they ended', () => {
    expect(sum(`${duration}_count`)).toBe(stats.calls)
    expect(sum(`${duration}_count`, success)).toBe(stats.succeeded)
    expect(sum(`${duration}_count`, { millrace_outcome: 'error' })).toBe(stats.failed)
    expect(sum(`${duration}_count`, { millrace_outcome: /aborted|abandoned/ })).toBe(stats.aborted)
    expect(sum(`${duration}_count`, fromCache)).toBe(stats.cached)
    expect(sum('millrace_calls_running')).toBe(stats.running)
  })

  test('tokens and money, spent and saved', () => {
    for (const type of ['input', 'output'] as const) {
      expect(sum('gen_ai_client_token_usage_sum', { gen_ai_token_type: type })).toBe(stats.tokens[type])
      const saved = { millrace_saved_by: 'cache', gen_ai_token_type: type }
      expect(sum('millrace_tokens_saved_total', saved)).toBe(stats.tokensSaved[type])
    }
    expect(sum('millrace_tokens_saved_total', { millrace_saved_by: 'fit' })).toBe(stats.tokensFitted)
    expect(sum('millrace_cost_spent_total')).toBeCloseTo(stats.moneySpent as number, 12)
    expect(sum('millrace_cost_saved_total')).toBeCloseTo(stats.moneySaved as number, 12)
    expect(sum('millrace_calls_unmetered_total')).toBe(stats.unmetered)
    expect(sum('millrace_calls_unpriced_total')).toBe(stats.unpriced)
  })

  test('mean times are sum by count, hits apart', () => {
    expect(mean(duration, { ...success, ...fromProvider })).toBeCloseTo(stats.meanMs as number, 9)
    expect(mean(duration, { ...success, ...fromCache })).toBeCloseTo(stats.cachedMeanMs as number, 9)
    expect(mean('millrace_call_overhead')).toBeCloseTo(stats.meanOverheadMs as number, 9)
  })

  test('the cache', () => {
    const { cache } = stats
    if (cache === undefined) throw new Error('no cache')
    const lookups = (state: string): number => sum('millrace_cache_lookups_total', { millrace_cache_state: state })
    expect({
      hits: lookups('hit'),
      stale: lookups('stale'),
      joined: lookups('joined'),
      misses: lookups('miss'),
      bypassed: lookups('bypass'),
      stored: sum('millrace_cache_stored_total'),
      refreshes: sum('millrace_cache_refreshes_total'),
      refreshErrors: sum('millrace_cache_refresh_errors_total'),
      storeErrors: sum('millrace_cache_store_errors_total'),
      storeSkipped: sum('millrace_cache_store_skipped_total'),
      evictions: sum('millrace_cache_evictions_total'),
      entries: sum('millrace_cache_entries'),
      bytes: sum('millrace_cache_size'),
      tokensSaved: sum('millrace_cache_tokens_saved_total')
    }).toEqual(Object.fromEntries(cacheFields.map((field) => [field, cache[field]])))
  })

  test('sockets, retries and breakers', () => {
    const [origin] = Object.values(stats.origins)
    if (origin === undefined) throw new Error('no origin')
    expect({
      open: sum('millrace_pool_sockets'),
      busy: sum('millrace_pool_sockets', { millrace_pool_state: 'busy' }),
      queued: sum('millrace_pool_queued'),
      opened: sum('millrace_pool_opened_total'),
      reused: sum('millrace_pool_reused_total'),
      requests: sum('millrace_pool_requests_total'),
      breakerOpened: sum('millrace_breaker_opened_total'),
      breakerRejected: sum('millrace_breaker_rejected_total')
    }).toEqual(Object.fromEntries(originFields.map((field) => [field, origin[field]])))
    expect(sum('millrace_breaker_state', { millrace_breaker_state: origin.breaker })).toBe(1)
    expect(sum('millrace_attempt_duration_count')).toBe(origin.requests)
    expect(origin.requests).toBe(rig.provider.stats().requests)
    expect(sum('millrace_transport_retries_total')).toBe(stats.retries)
    expect(sum('millrace_transport_retries_denied_total')).toBe(stats.retriesDenied)
    expect(sum('millrace_transport_resent_total')).toBe(stats.resent)
    expect(sum('millrace_transport_hedges_total')).toBe(stats.hedges)
    expect(sum('millrace_transport_hedges_won_total')).toBe(stats.hedgesWon)
  })
})

const cacheFields = [
  'hits',
  'stale',
  'joined',
  'misses',
  'bypassed',
  'stored',
  'refreshes',
  'refreshErrors',
  'storeErrors',
  'storeSkipped',
  'evictions',
  'entries',
  'bytes',
  'tokensSaved'
] as const
const originFields = ['open', 'busy', 'queued', 'opened', 'reused', 'requests', 'breakerOpened', 'breakerRejected'] as const

test('the gateway serves /metrics as Prometheus reads it, only to those who have the token', async () => {
  await using provider = await startScriptedProvider()
  const env = { PORT: '0', OPENAI_API_KEY: 'k', OPENAI_BASE_URL: provider.url, OPENAI_MODEL: 'scripted-large' }
  await using service = await startService(readConfig({ ...env, MILLRACE_TOKEN: 'letmein-letmein-letmein' }), env)
  const get = (path: string, token: string): Promise<Response> =>
    fetch(service.url + path, { headers: { authorization: `Bearer ${token}` } })
  expect((await fetch(`${service.url}/metrics`)).status).toBe(401)
  expect((await get('/metrics', 'letmeout')).status).toBe(401)
  const body = JSON.stringify({ model: 'scripted-large', messages: [{ role: 'user', content: 'Hi' }] })
  await (
    await fetch(`${service.url}/v1/chat/completions`, {
      method: 'POST',
      body,
      headers: { authorization: 'Bearer letmein-letmein-letmein' }
    })
  ).text()
  const response = await get('/metrics', 'letmein-letmein-letmein')
  expect([response.status, response.headers.get('content-type')]).toEqual([200, expect.stringMatching(/^text\/plain/)])
  const series = readMetrics(await response.text())
  expect(sumOf(series, `${duration}_count`, { gen_ai_request_model: 'scripted-large' })).toBe(1)
  expect(sumOf(series, 'millrace_cost_spent_total')).toBeGreaterThan(0)
  expect(sumOf(series, 'target_info', { service_name: 'millrace-gateway' })).toBe(1)
})

test('a call is part of the trace of a caller who may come in, and so is the request to the provider', async () => {
  await using provider = await startScriptedProvider()
  await using sink = await startOtlpSink()
  vi.stubEnv('OTEL_EXPORTER_OTLP_ENDPOINT', sink.url)
  onTestFinished(() => void vi.unstubAllEnvs())
  const env = { PORT: '0', OPENAI_API_KEY: 'k', OPENAI_BASE_URL: provider.url, MILLRACE_TOKEN: 'letmein-letmein-letmein' }
  const service = await startService(readConfig(env), process.env)
  const call = (trace: string, token: string): Promise<Response> =>
    fetch(`${service.url}/v1/chat/completions`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${token}`,
        traceparent: `00-${trace.repeat(32)}-${'b'.repeat(16)}-01`,
        tracestate: 'vendor=1'
      },
      body: JSON.stringify({ model: 'scripted-large', messages: [{ role: 'user', content: `Hi ${trace}` }] })
    })
  for (const [trace, token, status] of [
    ['a', 'letmein-letmein-letmein', 200],
    ['c', 'letmeout', 401]
  ] as const) {
    const response = await call(trace, token)
    expect([response.status, (await response.text()).length]).toEqual([status, expect.any(Number)])
  }
  await service.close()

  const chat = sink.spans.find(({ name }) => name === 'chat scripted-large')
  const attempt = sink.spans.find(({ parentSpanId }) => parentSpanId === chat?.spanId)
  expect(chat).toMatchObject({ traceId: 'a'.repeat(32), parentSpanId: 'b'.repeat(16) })
  expect(provider.requests.map(({ headers: { traceparent, tracestate } }) => [traceparent, tracestate])).toEqual([
    [`00-${'a'.repeat(32)}-${attempt?.spanId}-01`, 'vendor=1']
  ])
  expect(sink.text()).not.toContain('c'.repeat(32))
  // Metrics are pushed to that collector as well.
  expect(sink.metrics.get('gen_ai.client.operation.duration')?.points).toMatchObject([{ count: 1 }])
})
