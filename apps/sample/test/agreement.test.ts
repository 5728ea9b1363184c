import { setTimeout as delay } from 'node:timers/promises'
import { parseSSE } from '@millrace/core'
import { startScriptedProvider } from '@millrace/testkit'
import { expect, test } from 'vitest'
import { call } from '../src/caller.ts'
import { readConfig } from '../src/config.ts'
import { gatewayFigures } from '../src/demo-figures.ts'
import { startService } from '../src/service.ts'
import type { Snapshot } from '../src/snapshot.ts'
import { createWorkload } from '../src/workload.ts'
import { readMetrics, sumOf } from './metrics-rig.ts'

test('the demo’s figures, the page’s and those of /metrics are the same, and what the provider counted', async () => {
  await using provider = await startScriptedProvider({ tokensPerSecond: 2000 })
  const env = { PORT: '0', OPENAI_API_KEY: 'k', OPENAI_BASE_URL: provider.url, OPENAI_MODEL: 'scripted-large' }
  await using service = await startService(readConfig({ ...env, MILLRACE_CONTEXT_WINDOW: '1024' }), env)
  const target = { baseURL: `${service.url}/v1`, apiKey: 'none', model: 'scripted-large', maxTokens: 200 }
  const workload = createWorkload({ calls: 60, perSecond: 60 })
  const results = await Promise.all(
    workload.map(async (conversation) => {
      await delay(conversation.startMs)
      return call(conversation, target)
    })
  )

  // One moment at which nothing runs: what ends a call comes a little after what its caller sees.
  await expect.poll(async () => (await gatewayFigures(target)).running).toBe(0)
  const demo = await gatewayFigures(target)
  const series = readMetrics(await (await fetch(`${service.url}/metrics`)).text())
  const page = await firstSnapshot(service.url)
  const fromCache = { millrace_cache_state: /^(hit|stale|joined)$/ }

  expect(demo.upstreamRequests).toBe(provider.stats().requests)
  expect(sumOf(series, 'millrace_pool_requests_total')).toBe(demo.upstreamRequests)
  expect(sum(page, 'requests')).toBe(demo.upstreamRequests)

  expect(demo.socketsOpened).toBe(provider.stats().sockets)
  expect(sumOf(series, 'millrace_pool_opened_total')).toBe(demo.socketsOpened)
  expect(sum(page, 'opened')).toBe(demo.socketsOpened)

  expect(demo.tokensIn).toBe(provider.stats().tokensIn)
  expect(sumOf(series, 'gen_ai_client_token_usage_sum', { gen_ai_token_type: 'input' })).toBe(demo.tokensIn)
  expect(page.stats.tokens.input).toBe(demo.tokensIn)

  expect(page.stats.calls).toBe(results.length)
  expect(sumOf(series, 'gen_ai_client_operation_duration_count')).toBe(results.length)
  expect(page.histograms.duration.counts.reduce((total, count) => total + count, 0)).toBe(results.length)
  expect(page.stats.cached).toBe(sumOf(series, 'gen_ai_client_operation_duration_count', fromCache))
  expect(page.stats.cached).toBeGreaterThan(0)
  expect(page.stats.moneySpent).toBeCloseTo(sumOf(series, 'millrace_cost_spent_total'), 10)
  expect(page.stats.moneySaved).toBeCloseTo(sumOf(series, 'millrace_cost_saved_total'), 10)
  expect(page.stats.cache).toMatchObject({
    hits: sumOf(series, 'millrace_cache_lookups_total', { millrace_cache_state: 'hit' }),
    joined: sumOf(series, 'millrace_cache_lookups_total', { millrace_cache_state: 'joined' }),
    misses: sumOf(series, 'millrace_cache_lookups_total', { millrace_cache_state: 'miss' })
  })
}, 30_000)

async function firstSnapshot(url: string): Promise<Snapshot> {
  const response = await fetch(`${url}/v1/live`)
  for await (const { data } of parseSSE(response.body as ReadableStream<Uint8Array>)) return JSON.parse(data) as Snapshot
  throw new Error('the feed ended before its first snapshot')
}

function sum({ stats }: Snapshot, field: 'requests' | 'opened'): number {
  return Object.values(stats.origins).reduce((total, origin) => total + origin[field], 0)
}
