import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { startTelemetry } from '@millrace/telemetry/node'
import { metrics } from '@opentelemetry/api'
import { expect, test } from 'vitest'
import { startProcessMetrics } from '../src/process-metrics.ts'
import { readSamples } from '../src/prometheus-text.ts'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

test('memory, event loop, requests and Redis are in /metrics, and stand still when it is closed', async () => {
  await using telemetry = await startTelemetry({ metrics: ['prometheus'] })
  const read = async (): Promise<Map<string, number>> => {
    const sums = new Map<string, number>()
    for (const { name, value } of readSamples((await telemetry.prometheus()).body)) sums.set(name, (sums.get(name) ?? 0) + value)
    return sums
  }
  const redis = { ready: true }
  let running = 3
  const gauges = startProcessMetrics({ admission: { stats: () => ({ running, total: 7, refused: 2 }) }, redis })
  collect()
  await expect.poll(async () => (await read()).get('millrace_memory_heap_after_gc')).toBeGreaterThan(1e6)

  const idle = await read()
  const { heapUsed, rss } = process.memoryUsage()
  expect(Math.abs((idle.get('v8js_memory_heap_used') ?? 0) - heapUsed) / heapUsed).toBeLessThan(0.3)
  expect(Math.abs((idle.get('process_memory_usage') ?? 0) - rss) / rss).toBeLessThan(0.3)
  expect(idle.get('v8js_memory_heap_limit')).toBeGreaterThan(heapUsed)
  expect(idle.get('millrace_requests_running')).toBe(3)
  expect(idle.get('millrace_requests_admitted_total')).toBe(7)
  expect(idle.get('millrace_requests_refused_total')).toBe(2)
  expect(idle.get('millrace_redis_up')).toBe(1)
  redis.ready = false
  expect((await read()).get('millrace_redis_up')).toBe(0)

  const until = performance.now() + 300
  while (performance.now() < until);
  await expect.poll(async () => (await read()).get('nodejs_eventloop_delay_max')).toBeGreaterThan(0.2)
  expect((await read()).get('nodejs_eventloop_delay_max')).toBeLessThan(60)

  await gauges[Symbol.asyncDispose]()
  running = 4
  expect((await read()).get('millrace_requests_running')).toBe(3)
  metrics.disable()
})
