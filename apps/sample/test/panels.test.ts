import { setTimeout as delay } from 'node:timers/promises'
import type { AdapterStats } from '@millrace/adapter'
import { type PrometheusSample, type PrometheusServer, requirePrometheus } from '@millrace/testkit'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { askedBy, filled, panels, rulesFile } from './dashboard-file.ts'
import { longTalk, type Rig, startRig } from './metrics-rig.ts'
import { type RuleCase, testRules } from './rule-tests.ts'

const { server: promtool, skip } = await requirePrometheus()
afterAll(() => promtool?.stop())

describe('a panel of a range, asked at 60 minutes for the last 30', () => {
  const range = '30m'
  const asked = (title: string, gives: Readonly<Record<string, number>>): RuleCase['expect'] => [
    { at: '60m', expr: askedBy(title, { range }), gives }
  ]
  const spent = (instance: string): string =>
    `millrace_cost_spent_total{job="a", instance="${instance}", gen_ai_request_model="m"}`
  const spends = (scrapes: Readonly<Record<string, string>>, usd: number): RuleCase => ({
    series: Object.fromEntries(Object.entries(scrapes).map(([instance, values]) => [spent(instance), values])),
    expect: asked('Spent in this range', { '{}': usd })
  })
  const count = (labels: string): string => `gen_ai_client_operation_duration_count{job="a", gen_ai_request_model="m", ${labels}}`
  const unpriced = (model: string): string => `millrace_calls_unpriced_total{job="a", gen_ai_request_model="${model}"}`

  const cases: Readonly<Record<string, RuleCase>> = {
    'has the first value of a series that is born in it': spends({ a: '_x40 5x30' }, 5),
    'does not have it when the series was born before': spends({ a: '_x20 5x50' }, 0),
    'has what an old series grew by, and not its total': spends({ a: '1000+1x70' }, 30),
    'has the first value and the growth, to half a scrape': spends({ a: '_x40 5+1x30' }, 25.5),
    'has what is spent after a restart in the same place': spends({ a: '100+1x44 2+1x30' }, 31),
    'adds what a new process spent to what the old one did': spends({ a: '90+1x60', b: '_x50 7x20' }, 37),
    'has what a process spent that is gone': spends({ a: '_x40 5x3', b: '8x70' }, 5),
    'does not take a process for a new one that was not scraped for some minutes': spends({ a: '900x20 _x20 900x30' }, 0),
    'counts failed calls by type, also those of the first scrape': {
      series: {
        [count('millrace_outcome="success"')]: '_x40 80x30',
        [count('millrace_outcome="error", error_type="timeout"')]: '_x40 40x30',
        [count('millrace_outcome="error", error_type="network"')]: '7x45 9x30'
      },
      expect: asked('Failed calls in this range, by type', { '{error_type="timeout"}': 40, '{error_type="network"}': 2 })
    },
    'names the models without a price': {
      series: { [unpriced('new')]: '_x40 3x30', [unpriced('old')]: '4x70' },
      expect: [
        {
          at: '60m',
          expr: askedBy('Calls without usage or price in this range', { index: 1, range }),
          gives: { '{gen_ai_request_model="new"}': 3, '{gen_ai_request_model="old"}': 0 }
        }
      ]
    },
    'shows a share of 0 for a model that never failed, and nothing for one without calls': {
      series: {
        [count('millrace_outcome="success"')]: '0+10x60',
        [count('millrace_outcome="success"').replace('"m"', '"idle"')]: '10x60'
      },
      expect: [
        { at: '50m', expr: askedBy('Share of failed calls', { rateInterval: '5m' }), gives: { '{gen_ai_request_model="m"}': 0 } }
      ]
    },
    'shows which Millrace answers scrapes, and which did a day ago, and no other jobs': {
      series: {
        'up{job="a", instance="1"}': '1x60',
        'up{job="a", instance="2"}': '1x30 0x30',
        'up{job="node", instance="1"}': '1x60',
        'millrace_telemetry_failures_total{job="a", instance="2"}': '0x30'
      },
      expect: asked('Answering scrapes', { '{job="a", instance="1"}': 1, '{job="a", instance="2"}': 0 })
    }
  }
  test.skipIf(skip !== undefined).for(Object.entries(cases))('%s', async ([title, one]) => {
    expect(await testRules(promtool as PrometheusServer, rulesFile, { [title]: one })).toContain('SUCCESS')
  })
})

describe.skipIf(skip !== undefined)('the panels tell what adapter.stats() tells', () => {
  const rateSeconds = 60
  let rig: Rig
  let prometheus: PrometheusServer
  /** Before Prometheus came, and at the end. */
  let [before, after] = [] as unknown as [AdapterStats, AdapterStats]
  let born: Readonly<Record<string, readonly PrometheusSample[]>>

  beforeAll(async () => {
    rig = await startRig({
      transport: { retry: { baseMs: 1, budgetReserve: 500 }, breaker: { minimumRequests: 10_000 } },
      cache: { ttlMs: 60_000 },
      traces: []
    })
    await mix(rig, 'first', 3)
    await rig.ask('What do you cost?', { model: 'nobodys-model' })
    before = (await rig.read()).stats
    prometheus = await scraping(rig)
    await delay(600)
    born = Object.fromEntries(
      await Promise.all(
        inRange.map(async (key) => {
          const [title = '', index = 0] = key.split('#')
          return [key, await prometheus.query(askedBy(title, { index: Number(index) }))] as const
        })
      )
    )
    await mix(rig, 'second', 20)
    after = (await rig.read()).stats
    await delay(600)
  }, 60_000)
  afterAll(async () => {
    await prometheus?.stop()
    await rig?.[Symbol.asyncDispose]()
  })

  const inRange = [
    'Spent in this range',
    'Saved in this range',
    'Failed calls in this range, by type',
    'Calls without usage or price in this range#0',
    'Calls without usage or price in this range#1'
  ]
  const rate = (title: string, index = 0): Promise<readonly PrometheusSample[]> =>
    prometheus.query(askedBy(title, { index, rateInterval: `${rateSeconds}s` }))
  /** What each label's series grew by while Prometheus looked on. */
  const grown = async (title: string, label?: string, index = 0): Promise<Record<string, number>> =>
    byLabel(
      (await rate(title, index)).map(({ metric, value }) => ({ metric, value: value * rateSeconds })),
      label
    )
  const one = async (title: string, index = 0): Promise<number> => {
    const samples = await rate(title, index)
    expect(samples, title).toHaveLength(1)
    return (samples[0] as PrometheusSample).value
  }
  const growth = (read: (stats: AdapterStats) => number | null | undefined): number =>
    (read(after) as number) - (read(before) as number)
  const total = (key: string): number => (born[key] ?? []).reduce((sum, { value }) => sum + value, 0)

  test('what was there with the first scrape is in the numbers of the range', () => {
    expect(before.moneySpent).toBeGreaterThan(0)
    expect(total('Spent in this range')).toBeCloseTo(before.moneySpent as number, 12)
    expect(before.moneySaved).toBeGreaterThan(0)
    expect(total('Saved in this range')).toBeCloseTo(before.moneySaved as number, 12)
    expect(byLabel(born['Failed calls in this range, by type'] ?? [], 'error_type')).toEqual({
      'invalid-request': 3,
      unavailable: 3
    })
    expect(before.unmetered).toBeGreaterThan(0)
    expect(byLabel(born['Calls without usage or price in this range#0'] ?? [], 'gen_ai_request_model')).toEqual({
      'scripted-large': before.unmetered
    })
    expect(before.unpriced).toBe(1)
    expect(byLabel(born['Calls without usage or price in this range#1'] ?? [], 'gen_ai_request_model')).toEqual({
      'nobodys-model': 1
    })
  })

  test('and grows with the calls', async () => {
    expect(differences({ spent: await one('Spent in this range') }, { spent: after.moneySpent as number })).toEqual([])
    expect(differences({ saved: await one('Saved in this range') }, { saved: after.moneySaved as number })).toEqual([])
    const failed = byLabel(await prometheus.query(askedBy('Failed calls in this range, by type')), 'error_type')
    expect(differences(failed, { 'invalid-request': 23, unavailable: 23 })).toEqual([])
  })

  test('calls by outcome, errors by type, the share of failed ones', async () => {
    const outcomes = await grown('Calls by outcome', 'millrace_outcome')
    const { success = 0, error = 0, ...left } = outcomes
    expect(
      differences(
        { success, error, left: Object.values(left).reduce((sum, count) => sum + count, 0) },
        { success: growth((now) => now.succeeded), error: growth((now) => now.failed), left: growth((now) => now.aborted) }
      )
    ).toEqual([])
    expect(differences(await grown('Errors by type', 'error_type'), { 'invalid-request': 20, unavailable: 20 })).toEqual([])
    expect(await one('Share of failed calls')).toBeCloseTo(growth((now) => now.failed) / growth((now) => now.calls), 2)
  })

  test('money by model, and tokens by type', async () => {
    const model = 'scripted-large'
    const label = 'gen_ai_request_model'
    const hourly = async (title: string): Promise<Record<string, number>> => {
      const { [model]: usd = 0, ...rest } = await grown(title, label)
      return { ...rest, [model]: usd / 3600 }
    }
    expect(differences(await hourly('Spent an hour, by model'), { [model]: growth((now) => now.moneySpent) })).toEqual([])
    expect(differences(await hourly('Saved an hour, by model'), { [model]: growth((now) => now.moneySaved) })).toEqual([])
    expect(
      differences(await grown('Billed tokens', 'gen_ai_token_type'), {
        input: growth((now) => now.tokens.input),
        output: growth((now) => now.tokens.output)
      })
    ).toEqual([])
    expect(
      differences(await grown('Tokens saved', 'millrace_saved_by'), {
        cache: growth((now) => now.tokensSaved.input + now.tokensSaved.output),
        fit: growth((now) => now.tokensFitted)
      })
    ).toEqual([])
  })

  test('the cache: hit rate, lookups, what is kept', async () => {
    const of = (field: 'hits' | 'stale' | 'joined' | 'misses' | 'bypassed' | 'stored' | 'evictions'): number =>
      growth((now) => now.cache?.[field])
    const helped = of('hits') + of('stale') + of('joined')
    expect(helped).toBeGreaterThan(0)
    expect(await one('Hit rate')).toBeCloseTo(helped / (helped + of('misses')), 2)
    expect(
      differences(await grown('Lookups by state', 'millrace_cache_state'), {
        hit: of('hits'),
        stale: of('stale'),
        joined: of('joined'),
        miss: of('misses'),
        bypass: of('bypassed')
      })
    ).toEqual([])
    expect(differences(await grown('Kept and evicted'), { all: of('stored') })).toEqual([])
    expect(differences(await grown('Kept and evicted', undefined, 1), { all: of('evictions') })).toEqual([])
    expect(await one('Answers in memory')).toBe(after.cache?.entries)
    expect(await one('Memory')).toBe(after.cache?.bytes)
  })

  test('the pool and the attempts', async () => {
    const [was, is] = [before, after].map(({ origins }) => Object.values(origins)[0])
    if (was === undefined || is === undefined) throw new Error('no origin')
    const requests = is.requests - was.requests
    expect(await one('Share of requests on an open socket')).toBeCloseTo((is.reused - was.reused) / requests, 2)
    expect(differences(await grown('Sockets opened'), { all: is.opened - was.opened })).toEqual([])
    expect(byLabel(await rate('Sockets'), 'millrace_pool_state')).toEqual({ busy: 0, idle: is.open })
    expect(differences(await grown('Retries'), { all: growth((now) => now.retries) })).toEqual([])
    expect(differences(await grown('Retries', undefined, 1), { all: 0 })).toEqual([])
    const {
      200: ok = 0,
      400: refused = 0,
      429: busy = 0,
      ...others
    } = await grown('Attempts by status', 'http_response_status_code')
    expect(differences({ refused, busy }, { refused: 20, busy: 20 })).toEqual([])
    expect(
      differences({ all: ok + refused + busy + Object.values(others).reduce((sum, count) => sum + count, 0) }, { all: requests })
    ).toEqual([])
  })

  test('latencies are in the buckets of what the provider took', async () => {
    // Half of the calls to the provider last 250 ms (50 words at 200 a second), and one in ten waits 1.5 s for its first word.
    // A joined answer takes as long as the one it joined.
    const within = [
      ['Latency of calls that went to the provider', 0, 0.16, 0.64],
      ['Latency of calls that went to the provider', 2, 1.28, 2.56],
      ['Latency of answers from the cache', 0, 0, 0.08],
      ['Latency of answers from the cache', 1, 0.16, 0.64],
      ['Time to first chunk', 0, 0, 0.16],
      ['Time to first chunk', 2, 1.28, 2.56],
      ['Time per output chunk', 0, 0, 0.04],
      ['Latency of attempts', 0, 0, 0.16],
      ['Latency of attempts', 1, 1.28, 2.56],
      ['Time in Millrace', 0, 0, 0.05],
      ['Share of the latency', 0, 0, 0.2]
    ] as const
    for (const [title, index, low, high] of within) {
      const value = await one(title, index)
      expect(value, title).toBeGreaterThan(low)
      expect(value, title).toBeLessThanOrEqual(high)
    }
  })
})

test.skipIf(skip !== undefined)(
  'where all is well, without a cache, a limit and traces, each panel shows a number or says why not',
  async () => {
    await using rig = await startRig({ cache: 'none', traces: [] })
    await Promise.all(Array.from({ length: 5 }, (_, call) => rig.ask(`well ${call}`)))
    await using prometheus = await scraping(rig)
    await delay(500)
    await Promise.all(Array.from({ length: 5 }, (_, call) => rig.ask(`still well ${call}`)))
    await delay(500)
    const silent: string[] = []
    const empty: string[] = []
    for (const { title, targets = [], fieldConfig } of panels) {
      const answers = await Promise.all(targets.map(({ expr }) => prometheus.query(filled(expr))))
      if (answers.some((samples) => samples.length > 0)) continue
      empty.push(title)
      if (fieldConfig?.defaults.noValue === undefined) silent.push(title)
    }
    expect(silent).toEqual([])
    expect(empty).toEqual(
      expect.arrayContaining(['Errors by type', 'Failed calls in this range, by type', 'Spans by fate', 'Hit rate'])
    )
    expect(empty).not.toContain('Share of failed calls')
  },
  60_000
)

/** Scrapes the rig five times a second, and has done so once. */
async function scraping(rig: Rig): Promise<PrometheusServer> {
  const { server } = await requirePrometheus({ targets: [new URL(rig.gateway.url).host] })
  if (server === undefined) throw new Error('Prometheus was there a moment ago')
  await vi.waitFor(async () => expect(await server.query('up == 1')).toHaveLength(1), { timeout: 15_000, interval: 100 })
  return server
}

/** Of each kind so many calls, one in four of the late ones; each has its series when it has happened once. */
async function mix(rig: Rig, name: string, size: number): Promise<void> {
  const all = (ask: (index: number) => Promise<unknown>, count = size): Promise<unknown> =>
    Promise.all(Array.from({ length: count }, (_, index) => ask(index)))
  await all((index) => rig.ask(`slow ${name} ${index}`, { stream: true }))
  await all((index) => rig.ask(`slow ${name} ${index}`, { stream: true }))
  await all(() => rig.ask(`slow ${name}, by all`))
  await all((index) => rig.ask(`late ${name} ${index}`, { stream: true }), Math.ceil(size / 4))
  await all((index) => rig.ask(`busy ${name} ${index}`))
  await all((index) => rig.ask(`refused ${name} ${index}`))
  await all((index) => rig.leave(`slow ${name}, left ${index}`), Math.ceil(size / 4))
  await all((index) => rig.ask(`${name} ${index}`, { messages: longTalk(`${name} ${index}`) }), Math.ceil(size / 4))
  rig.breakProvider('broken')
  await all((index) => rig.ask(`broken ${name} ${index}`))
  rig.breakProvider('well')
}

function byLabel(samples: readonly PrometheusSample[], label?: string): Record<string, number> {
  const sums: Record<string, number> = {}
  for (const { metric, value } of samples) {
    const key = label === undefined ? 'all' : (metric[label] ?? '')
    sums[key] = (sums[key] ?? 0) + value
  }
  return sums
}

/** Prometheus counts what it takes to have happened before the first and after the last scrape too: up to a tenth here. */
function differences(actual: Readonly<Record<string, number>>, expected: Readonly<Record<string, number>>): string[] {
  return Array.from(new Set([...Object.keys(actual), ...Object.keys(expected)])).flatMap((key) => {
    const value = actual[key] ?? Number.NaN
    const wanted = expected[key] ?? Number.NaN
    return value >= wanted * 0.999 && value <= wanted * 1.1 ? [] : [`${key}: ${value}, not ${wanted}`]
  })
}
