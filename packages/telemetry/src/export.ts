import { context, createContextKey, createNoopMeter, metrics, propagation, ROOT_CONTEXT, trace } from '@opentelemetry/api'
import { findSdk, type Load, type MetricReader } from './node-sdk.ts'
import { createOtlp, type Otlp } from './otlp.ts'
import { createTailSampling, type SpanProcessorLike, type TailSampling } from './sampling.ts'
import { attribute, metric, scope } from './semconv.ts'
import type { Settings } from './settings.ts'
import { createSpanQueue, type SpanQueue, type SpanQueueStats } from './span-queue.ts'

export interface ExportOptions extends Settings {
  readonly serviceName: string | undefined
  readonly slowMs: number
  /** Told what went wrong. */
  readonly report: (text: string) => void
}

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
  if (isRegistered()) {
    throw new TypeError('OpenTelemetry runs in this process already: close that first, or join it with createTelemetry()')
  }
  const closing = new AbortController()
  const aborted = new AbortController()
  const otlp = createOtlp(load, {
    protocol: options.protocol,
    closing: closing.signal,
    aborted: aborted.signal,
    onFailure: options.report
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
    sampler: options.ratio === undefined ? undefined : new (load('@opentelemetry/sdk-trace').AlwaysOnSampler)()
  })
  const unregister = register(load, options, () => sdk.start())
  let failures = 0
  if (spans !== undefined) observe(stats)

  function stats(): ExportStats {
    if (spans === undefined) return { failures }
    const { ended, held, sampledOut } = spans.sampling.stats()
    const { queued, ...counts } = spans.queue.stats()
    return { failures, spans: { ended, sampledOut, queued: held + queued, ...counts } }
  }

  return {
    async prometheus() {
      if (prometheus === undefined) return undefined
      const { resourceMetrics, errors } = await prometheus.reader.collect()
      failures += errors.length
      return prometheus.serializer.serialize(resourceMetrics)
    },
    stats,
    async close(ms) {
      closing.abort()
      const { promise: late, resolve } = Promise.withResolvers<void>()
      const timer = setTimeout(resolve, ms)
      // Spans and metrics are flushed side by side.
      await Promise.race([sdk.shutdown().catch(() => void failures++), late])
      clearTimeout(timer)
      aborted.abort()
      spans?.queue.abort()
      unregister()
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
  readonly queue: SpanQueue
}

/** Spans pass the sampling, the queue and the exporter; of two exporters the queue counts OTLP's. */
function createSpans(load: Load, otlp: Otlp, options: ExportOptions): Spans | undefined {
  const { traces, batch, ratio, slowMs, report } = options
  if (traces.length === 0) return undefined
  const { BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor } = load('@opentelemetry/sdk-trace')
  const queue = createSpanQueue(traces.includes('otlp') ? otlp.traces() : new ConsoleSpanExporter(), batch.maxQueueSize, () =>
    report('spans were dropped: the queue is full (OTEL_BSP_MAX_QUEUE_SIZE)')
  )
  const { exporter } = queue
  const counted = queue.guard(
    traces.includes('otlp') ? new BatchSpanProcessor({ ...batch, exporter }) : new SimpleSpanProcessor({ exporter })
  )
  const next =
    new Set(traces).size === 1 ? counted : both(counted, new SimpleSpanProcessor({ exporter: new ConsoleSpanExporter() }))
  return { queue, sampling: createTailSampling(next, { ratio, slowMs }) }
}

type Processor = SpanProcessorLike<object, never>

function both(first: Processor, second: Processor): Processor {
  return {
    onStart() {},
    onEnd(span) {
      first.onEnd(span)
      second.onEnd(span)
    },
    forceFlush: async () => void (await Promise.all([first.forceFlush(), second.forceFlush()])),
    shutdown: async () => void (await Promise.all([first.shutdown(), second.shutdown()]))
  }
}

interface Readers {
  readonly readers: readonly MetricReader[]
  readonly prometheus?: { readonly reader: MetricReader; readonly serializer: { serialize(resourceMetrics: unknown): string } }
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

/** Whether spans or metrics go somewhere already. */
function isRegistered(): boolean {
  // Only the API's own proxy has this method, and gives nothing while no SDK is behind it.
  const provider = trace.getTracerProvider() as { getDelegateTracer?(name: string): unknown }
  const traced = provider.getDelegateTracer === undefined || provider.getDelegateTracer('registered') !== undefined
  return traced || metrics.getMeterProvider().getMeter('registered') !== createNoopMeter()
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
