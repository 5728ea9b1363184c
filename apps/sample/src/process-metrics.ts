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

/** The delays of the event loop are of the last 10 to 20 s; of more where nobody has read for so long. */
const windowMs = 10_000
const resolutionMs = 10

interface Delays {
  readonly p99: number
  readonly max: number
}

/** Seconds. What Node measures is a timer's whole wait, the 10 ms it asked for included. */
function delayOf(nanoseconds: number): number {
  return Math.max(0, nanoseconds / 1e9 - resolutionMs / 1000)
}

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
  const all = [heapUsed, heapLimit, heapAfterMajor, resident, delayP99, delayMax, running, admitted, refused, redisUp]

  let afterMajor: number | undefined
  const collections = new PerformanceObserver((list) => {
    if (list.getEntries().some(isMajor)) afterMajor = getHeapStatistics().used_heap_size
  })
  collections.observe({ entryTypes: ['gc'] })
  const delays = monitorEventLoopDelay({ resolution: resolutionMs })
  delays.enable()
  let windowStartedAt = performance.now()
  let before: Delays = { p99: 0, max: 0 }

  /** A scrape and a page read at different times, and neither may begin a new window for the other. */
  function delaysNow(): Delays {
    const now: Delays = { p99: delayOf(delays.percentile(99)), max: delayOf(delays.max) }
    const told = { p99: Math.max(before.p99, now.p99), max: Math.max(before.max, now.max) }
    if (performance.now() - windowStartedAt >= windowMs) {
      before = now
      windowStartedAt = performance.now()
      delays.reset()
    }
    return told
  }

  function observe(result: BatchObservableResult): void {
    for (const { space_name: space, space_used_size: size } of getHeapSpaceStatistics()) {
      result.observe(heapUsed, size, { 'v8js.heap.space.name': space })
    }
    result.observe(heapLimit, getHeapStatistics().heap_size_limit)
    if (afterMajor !== undefined) result.observe(heapAfterMajor, afterMajor)
    result.observe(resident, process.memoryUsage.rss())
    const { p99, max } = delaysNow()
    result.observe(delayP99, p99)
    result.observe(delayMax, max)
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

function isMajor(entry: PerformanceEntry): boolean {
  const { detail } = entry as { readonly detail?: { readonly kind?: unknown } }
  return detail?.kind === constants.NODE_PERFORMANCE_GC_MAJOR
}
