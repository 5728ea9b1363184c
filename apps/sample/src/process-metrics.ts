import { constants, monitorEventLoopDelay, type PerformanceEntry, PerformanceObserver } from 'node:perf_hooks'
import { getHeapSpaceStatistics, getHeapStatistics } from 'node:v8'
import type { RedisStore } from '@millrace/cache/redis'
import { type BatchObservableResult, metrics } from '@opentelemetry/api'
import type { Admission } from './admission.ts'

export interface ProcessMetricsOptions {
  readonly admission: Pick<Admission, 'stats'>
  /** Undefined where there is none; then nothing is told of it. */
  readonly redis: Pick<RedisStore, 'ready'> | undefined
}

/** The delays of the event loop are of the last 10 to 20 s, whoever reads them in between. */
const windowMs = 10_000
const nanosecond = 1e-9

/**
 * Tells the global `MeterProvider` of this process: memory, event loop, requests. The names are those of OpenTelemetry's
 * conventions where there are some. Start it behind the SDK.
 *
 * @example
 * await using telemetry = await startTelemetry({ metrics: ['prometheus'] })
 * await using gauges = startProcessMetrics({ admission, redis: undefined })
 */
export function startProcessMetrics({ admission, redis }: ProcessMetricsOptions): AsyncDisposable {
  const meter = metrics.getMeterProvider().getMeter('@millrace/sample')
  const bytes = { unit: 'By' }
  const seconds = { unit: 's' }
  const heapUsed = meter.createObservableUpDownCounter('v8js.memory.heap.used', { ...bytes, description: 'Heap in use' })
  const heapLimit = meter.createObservableUpDownCounter('v8js.memory.heap.limit', {
    ...bytes,
    description: 'What the heap may grow to'
  })
  const heapAfterMajor = meter.createObservableGauge('millrace.memory.heap.after_gc', {
    ...bytes,
    description: 'Heap in use when the last major collection was over: what really stays'
  })
  const resident = meter.createObservableUpDownCounter('process.memory.usage', { ...bytes, description: 'Resident memory' })
  const delayMean = meter.createObservableGauge('nodejs.eventloop.delay.mean', {
    ...seconds,
    description: 'Mean delay of the event loop'
  })
  const delayP99 = meter.createObservableGauge('nodejs.eventloop.delay.p99', { ...seconds, description: '99th percentile of it' })
  const delayMax = meter.createObservableGauge('nodejs.eventloop.delay.max', { ...seconds, description: 'The longest' })
  const running = meter.createObservableUpDownCounter('millrace.requests.running', {
    unit: '{request}',
    description: 'Requests under way'
  })
  const admitted = meter.createObservableCounter('millrace.requests.admitted', {
    unit: '{request}',
    description: 'Requests let in'
  })
  const refused = meter.createObservableCounter('millrace.requests.refused', {
    unit: '{request}',
    description: 'Requests turned away, for too many were under way'
  })
  const redisUp = meter.createObservableGauge('millrace.redis.up', {
    unit: '1',
    description: '1 while Redis can be asked, else 0'
  })
  const all = [heapUsed, heapLimit, heapAfterMajor, resident, delayMean, delayP99, delayMax, running, admitted, refused, redisUp]

  let afterMajor: number | undefined
  const collections = new PerformanceObserver((list) => {
    const isMajor = (entry: GCEntry): boolean => entry.detail?.kind === constants.NODE_PERFORMANCE_GC_MAJOR
    if (list.getEntries().some(isMajor)) afterMajor = getHeapStatistics().used_heap_size
  })
  collections.observe({ entryTypes: ['gc'] })
  const delays = monitorEventLoopDelay({ resolution: 10 })
  delays.enable()
  let windowStartedAt = performance.now()
  let window: Delays | undefined

  /** A scrape and a page read at different times: none of them begins a new window for the other. */
  function delaysNow(): Delays {
    const current = { mean: delays.mean, p99: delays.percentile(99), max: delays.max }
    const now = performance.now()
    if (now - windowStartedAt < windowMs) return window === undefined ? current : longer(window, current)
    delays.reset()
    windowStartedAt = now
    window = current
    return current
  }

  function observe(result: BatchObservableResult): void {
    for (const { space_name: space, space_used_size: size } of getHeapSpaceStatistics()) {
      result.observe(heapUsed, size, { 'v8js.heap.space.name': space })
    }
    result.observe(heapLimit, getHeapStatistics().heap_size_limit)
    if (afterMajor !== undefined) result.observe(heapAfterMajor, afterMajor)
    result.observe(resident, process.memoryUsage.rss())
    const { mean, p99, max } = delaysNow()
    // Nothing has been measured yet.
    if (max > 0 && Number.isFinite(mean)) {
      result.observe(delayMean, mean * nanosecond)
      result.observe(delayP99, p99 * nanosecond)
      result.observe(delayMax, max * nanosecond)
    }
    const requests = admission.stats()
    result.observe(running, requests.running)
    result.observe(admitted, requests.total)
    result.observe(refused, requests.refused)
    if (redis !== undefined) result.observe(redisUp, redis.ready ? 1 : 0)
  }
  meter.addBatchObservableCallback(observe, all)

  return {
    async [Symbol.asyncDispose]() {
      meter.removeBatchObservableCallback(observe, all)
      collections.disconnect()
      delays.disable()
    }
  }
}
