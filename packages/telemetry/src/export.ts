import { clampTimer } from '@millrace/core'
import { context, createContextKey, createNoopMeter, metrics, propagation, ROOT_CONTEXT, trace } from '@opentelemetry/api'
import { findSdk, type Load, type MetricReader } from './node-sdk.ts'
import { createOtlp, type Otlp } from './otlp.ts'
import { createTailSampling, type SpanProcessorLike, type TailSampling } from './sampling.ts'
import { attribute, metric, scope } from './semconv.ts'
import { type Settings, traceExporters } from './settings.ts'
import { createSpanQueue, type SpanQueue, type SpanQueueStats } from './span-queue.ts'

export interface ExportOptions extends Settings {
  readonly serviceName: string | undefined
  readonly slowMs: number
  /** Told what went wrong. */
  readonly report: (text: string) => void
}

/** Series of one instrument of ours. */
const maxSeries = 10_000

/** A callback that hangs is left out of the text; a Prometheus waits for it for 10 s. */
const collectTimeoutMs = 5000

/** `ended` is the sum of `sampledOut`, `queued`, `exported` and `dropped`, at any moment. */
export interface NodeSpanStats extends SpanQueueStats {
  readonly ended: number
  /** Spans let go of by the sampling. */
  readonly sampledOut: number
}

interface ExportStats {
  readonly failures: number
  readonly spans?: NodeSpanStats
}

export interface Export {
  /** The text that a Prometheus scrapes; undefined without that exporter. */
  prometheus(): Promise<string | undefined>
  stats(): ExportStats
  /** Exports what there is, within `ms`, and lets go of sockets and of the API. Never rejects. */
  close(ms: number): Promise<void>
}

/**
 * Starts the SDK and registers it with the API.
 *
 * @throws {TypeError} the SDK is not installed, or one is registered already
 */
export function startExport(options: ExportOptions): Export {
  const load = findSdk()
  if (isRegistered(load)) {
    throw new TypeError('OpenTelemetry runs in this process already: close that first, or join it with createTelemetry()')
  }
  const closing = new AbortController()
  const aborted = new AbortController()
  const otlp = createOtlp(load, {
    protocol: options.protocol,
    closing: closing.signal,
    aborted: aborted.signal,
    limitMs: { traces: options.batch.exportTimeoutMillis, metrics: options.reader.exportTimeoutMillis },
    report: options.report
  })
  const spans = createSpans(load, otlp, options)
  const { readers, prometheus } = createReaders(load, otlp, options)
  const { NodeSDK } = load('@opentelemetry/sdk-node')
  const { envDetector, serviceInstanceIdDetector } = load('@opentelemetry/resources')
  const sdk = new NodeSDK({
    serviceName: options.serviceName,
    // The SDK's own list tells command line, user and host; who wants them names them there.
    resourceDetectors: process.env.OTEL_NODE_RESOURCE_DETECTORS ? undefined : [serviceInstanceIdDetector, envDetector],
    spanProcessors: spans === undefined ? [] : [spans.sampling],
    metricReaders: readers,
    // Without it the SDK sends logs to localhost.
    logRecordProcessors: options.logs ? undefined : [],
    // By default the SDK adds up all series beyond 2000 as one without labels; a hundred models come to more.
    views: [{ meterName: scope, aggregationCardinalityLimit: maxSeries }],
    sampler: options.ratio === undefined ? undefined : new (load('@opentelemetry/sdk-trace').AlwaysOnSampler)()
  })
  const unregister = register(load, options, () => sdk.start())
  let failures = 0
  let scraping: Promise<string> | undefined
  if (spans !== undefined) observe(stats)

  function stats(): ExportStats {
    if (spans === undefined) return { failures }
    const { ended, held, sampledOut } = spans.sampling.stats()
    const { queued, ...counts } = spans.queue.stats()
    return { failures, spans: { ended, sampledOut, queued: held + queued, ...counts } }
  }

  async function scrape({ reader, serializer }: Prometheus): Promise<string> {
    try {
      const { resourceMetrics, errors } = await reader.collect({ timeoutMillis: collectTimeoutMs })
      failures += errors.length
      return serializer.serialize(resourceMetrics)
    } finally {
      scraping = undefined
    }
  }

  return {
    async prometheus() {
      if (prometheus === undefined) return undefined
      // Whoever asks while one is made gets that one: the text of thousands of series costs a quarter of a second.
      scraping ??= scrape(prometheus)
      return scraping
    },
    stats,
    async close(ms) {
      closing.abort()
      const { promise: late, resolve } = Promise.withResolvers<void>()
      const timer = setTimeout(resolve, ms)
      // Side by side; the spans are waited for also where the shutdown of something else fails.
      const done = Promise.all([sdk.shutdown().catch(() => void failures++), spans?.sampling.shutdown()])
      await Promise.race([done, late])
      clearTimeout(timer)
      aborted.abort()
      spans?.abort()
      unregister()
      // What was given up is counted and told in this turn.
      await new Promise<void>((turned) => setImmediate(turned))
    }
  }
}

/** Tells what became of the spans, so that a collector that is gone shows where metrics are still scraped. */
function observe(stats: () => ExportStats): void {
  const meter = metrics.getMeter(scope)
  const ended = meter.createObservableCounter(metric.telemetrySpans, {
    unit: '{span}',
    description: 'Spans by what became of them; those that are missing are on their way'
  })
  ended.addCallback((result) => {
    const { exported = 0, dropped = 0, sampledOut = 0 } = stats().spans ?? {}
    result.observe(exported, { [attribute.spanFate]: 'exported' })
    result.observe(dropped, { [attribute.spanFate]: 'dropped' })
    result.observe(sampledOut, { [attribute.spanFate]: 'sampled-out' })
  })
  meter
    .createObservableCounter(metric.telemetryExportFailures, { unit: '{export}', description: 'Exports of spans that failed' })
    .addCallback((result) => result.observe(stats().spans?.failed ?? 0))
}

interface Spans {
  readonly sampling: TailSampling<object, never>
  /** Of two exporters, OTLP's. */
  readonly queue: SpanQueue
  abort(): void
}

/** Spans pass the sampling, a queue and its exporter. */
function createSpans(load: Load, otlp: Otlp, options: ExportOptions): Spans | undefined {
  const { traces, batch, ratio, slowMs, report } = options
  const { suppressTracing } = load('@opentelemetry/core')
  const queues = traceExporters
    .filter((name) => traces.includes(name))
    .map((name) => {
      const isOtlp = name === 'otlp'
      const exporters = isOtlp ? otlp.traces() : [new (load('@opentelemetry/sdk-trace').ConsoleSpanExporter)()]
      return createSpanQueue(exporters, {
        ...batch,
        // A console shows each span as it ends.
        maxExportBatchSize: isOtlp ? batch.maxExportBatchSize : 1,
        // The exporter keeps the limit by itself, and says why; this is for one that does not.
        exportTimeoutMillis: clampTimer(batch.exportTimeoutMillis + 1000),
        onFull: () => report('spans were dropped: the queue is full (OTEL_BSP_MAX_QUEUE_SIZE, or 32 MiB of text)'),
        // Who traces requests is not told of those of the exporter, which would be spans again.
        run: (start) => context.with(suppressTracing(ROOT_CONTEXT), start)
      })
    })
  const [queue] = queues
  if (queue === undefined) return undefined
  return {
    queue,
    // All that it holds may be passed on in one turn: half of the queue is left to the other calls.
    sampling: createTailSampling(all(queues), { ratio, slowMs, maxSpans: Math.ceil(batch.maxQueueSize / 2) }),
    abort() {
      for (const { abort } of queues) abort()
    }
  }
}

function all(queues: readonly SpanQueue[]): SpanProcessorLike<object, never> {
  return {
    onStart() {},
    onEnd(span) {
      for (const queue of queues) queue.onEnd(span)
    },
    forceFlush: async () => void (await Promise.all(queues.map((queue) => queue.forceFlush()))),
    shutdown: async () => void (await Promise.all(queues.map((queue) => queue.shutdown())))
  }
}

interface Prometheus {
  readonly reader: MetricReader
  readonly serializer: { serialize(resourceMetrics: unknown): string }
}

interface Readers {
  readonly readers: readonly MetricReader[]
  readonly prometheus?: Prometheus
}

function createReaders(load: Load, otlp: Otlp, { metrics: names, reader }: ExportOptions): Readers {
  const readers = [...new Set(names)].flatMap((name) => {
    if (name === 'prometheus') return []
    const { ConsoleMetricExporter, PeriodicExportingMetricReader } = load('@opentelemetry/sdk-metrics')
    const exporter = name === 'otlp' ? otlp.metrics() : new ConsoleMetricExporter()
    return new PeriodicExportingMetricReader({ ...reader, exporter })
  })
  if (!names.includes('prometheus')) return { readers }
  const { PrometheusExporter, PrometheusSerializer } = load('@opentelemetry/exporter-prometheus')
  // Its own server stays off: the app serves the text where it likes.
  const prometheus = new PrometheusExporter({ preventServerStart: true })
  return { readers: [...readers, prometheus], prometheus: { reader: prometheus, serializer: new PrometheusSerializer() } }
}

/** Whether spans, metrics or logs go somewhere already. */
function isRegistered(load: Load): boolean {
  // Only the API's own proxies have these methods; that of the tracers gives nothing while no SDK is behind it.
  const provider = trace.getTracerProvider() as { getDelegateTracer?(name: string): unknown }
  const traced = provider.getDelegateTracer === undefined || provider.getDelegateTracer('registered') !== undefined
  const { logs } = load('@opentelemetry/api')
  const logged = logs !== undefined && !('_setDelegate' in logs.getLoggerProvider())
  return traced || logged || metrics.getMeterProvider().getMeter('registered') !== createNoopMeter()
}

/** Runs `start`; gives the undoing of what it registered, and of nothing that was there before. */
function register(load: Load, { traces, metrics: meters }: Settings, start: () => void): () => void {
  const key = createContextKey('probe')
  const hasContext = context.with(ROOT_CONTEXT.setValue(key, true), () => context.active().getValue(key) === true)
  const hasPropagator = propagation.fields().length > 0
  start()
  return () => {
    if (traces.length > 0) trace.disable()
    if (meters.length > 0) metrics.disable()
    // `logs` is newer than the oldest API we take, so it is asked of the SDK's.
    load('@opentelemetry/api').logs?.disable()
    if (!hasContext) context.disable()
    if (!hasPropagator) propagation.disable()
  }
}
