import { createRequire } from 'node:module'
import { type OtlpSink, probeLeaks, startOtlpSink } from '@millrace/testkit'
import { type Meter, SpanKind, SpanStatusCode, type Tracer, ValueType } from '@opentelemetry/api'
import { expect, it } from 'vitest'

// The exporters are not dependencies of ours: they are taken from where the SDK finds them.
const sdk = createRequire(createRequire(import.meta.url).resolve('@opentelemetry/sdk-node'))
const { SimpleSpanProcessor, BatchSpanProcessor, TracerProvider } = load('sdk-trace')
const { MeterProvider, PeriodicExportingMetricReader } = load('sdk-metrics')
const { LoggerProvider, SimpleLogRecordProcessor } = load('sdk-logs')
const { resourceFromAttributes } = load('resources')

interface Provider {
  getTracer(name: string, version?: string): Tracer
  getMeter(name: string, version?: string): Meter
  getLogger(name: string): { emit(record: object): void }
  forceFlush(): Promise<void>
  shutdown(): Promise<void>
}

interface Loaded {
  readonly [name: string]: new (options: object) => Provider
}

function load(name: string): Loaded {
  return sdk(`@opentelemetry/${name}`) as Loaded
}

/** A provider of traces whose exporter sends to the sink. */
function tracing(sink: OtlpSink, encoding: string, options: object = {}): Provider {
  const resource = (resourceFromAttributes as unknown as (attributes: object) => object)({ 'service.name': 'shop' })
  const spanProcessors = [simpleProcessor(sink, encoding, options)]
  return new (TracerProvider as Loaded[string])({ resource, spanProcessors })
}

function simpleProcessor(sink: OtlpSink, encoding: string, options: object = {}): object {
  const Exporter = load(`exporter-trace-otlp-${encoding}`).OTLPTraceExporter as Loaded[string]
  const exporter = new Exporter({ url: `${sink.url}/v1/traces`, headers: { 'x-key': 'k' }, ...options })
  return new (SimpleSpanProcessor as Loaded[string])({ exporter })
}

it.each([
  ['proto', 'application/x-protobuf', 'none'],
  ['proto', 'application/x-protobuf', 'gzip'],
  ['http', 'application/json', 'none'],
  ['http', 'application/json', 'gzip']
])('takes the spans that the real exporter sends: %s (%s, %s)', async (encoding, contentType, compression) => {
  await using sink = await startOtlpSink()
  const provider = tracing(sink, encoding, { compression })
  const tracer = provider.getTracer('millrace', '1.2.3')
  const attributes = { text: 'grüße "x"', whole: 42, negative: -1, half: 0.25, yes: true, list: ['a', 'b'], numbers: [1, 2] }
  const link = tracer.startSpan('linked').spanContext()
  const span = tracer.startSpan('chat m', {
    kind: SpanKind.CLIENT,
    attributes,
    startTime: [1_700_000_000, 123_456_789],
    links: [{ context: link }]
  })
  span.addEvent('first', { size: 3 }, [1_700_000_000, 200_000_000])
  span.setStatus({ code: SpanStatusCode.ERROR, message: 'timeout' })
  span.end([1_700_000_001, 1])
  await sink.waitFor(({ spans }) => spans.length === 1)
  expect(sink.spans).toEqual([
    {
      traceId: span.spanContext().traceId,
      spanId: span.spanContext().spanId,
      parentSpanId: undefined,
      name: 'chat m',
      kind: 'client',
      startTimeUnixNano: 1_700_000_000_123_456_789n,
      endTimeUnixNano: 1_700_000_001_000_000_001n,
      attributes,
      events: [{ name: 'first', timeUnixNano: 1_700_000_000_200_000_000n, attributes: { size: 3 } }],
      links: [{ traceId: link.traceId, spanId: link.spanId, attributes: {} }],
      status: { code: 'error', message: 'timeout' },
      resource: { 'service.name': 'shop' },
      scope: { name: 'millrace', version: '1.2.3' }
    }
  ])
  expect(sink.requests).toMatchObject([{ headers: { 'content-type': contentType, 'x-key': 'k' }, taken: true }])
  expect(sink.requests[0]?.headers['content-encoding']).toBe(compression === 'gzip' ? 'gzip' : undefined)
  expect(sink.text()).toContain('grüße "x"')
  await provider.shutdown()
})

it.each(['proto', 'http'])('takes the metrics that the real exporter sends: %s', async (encoding) => {
  await using sink = await startOtlpSink()
  const Exporter = load(`exporter-metrics-otlp-${encoding}`).OTLPMetricExporter as Loaded[string]
  const exporter = new Exporter({ url: `${sink.url}/v1/metrics` })
  const reader = new (PeriodicExportingMetricReader as Loaded[string])({
    exporter,
    exportIntervalMillis: 60_000,
    exportTimeoutMillis: 5000
  })
  const provider = new (MeterProvider as Loaded[string])({ readers: [reader] })
  const meter = provider.getMeter('millrace')
  meter.createCounter('calls', { unit: '{call}', description: 'how many', valueType: ValueType.INT }).add(3, { model: 'a' })
  meter.createUpDownCounter('open').add(-2.5)
  meter.createObservableGauge('queued').addCallback((result) => result.observe(7))
  const duration = meter.createHistogram('duration', { unit: 's', advice: { explicitBucketBoundaries: [0.1, 1] } })
  for (const seconds of [0.05, 0.5, 0.75]) duration.record(seconds, { model: 'a' })
  await provider.forceFlush()
  expect(sink.metrics.get('calls')).toMatchObject({
    unit: '{call}',
    description: 'how many',
    kind: 'sum',
    monotonic: true,
    temporality: 'cumulative',
    points: [{ attributes: { model: 'a' }, value: 3 }],
    scope: { name: 'millrace' }
  })
  expect(sink.metrics.get('open')).toMatchObject({ kind: 'sum', monotonic: false, points: [{ value: -2.5 }] })
  expect(sink.metrics.get('queued')).toMatchObject({ kind: 'gauge', points: [{ value: 7 }] })
  expect(sink.metrics.get('duration')).toMatchObject({
    unit: 's',
    kind: 'histogram',
    points: [{ attributes: { model: 'a' }, count: 3, sum: 1.3, min: 0.05, max: 0.75, bounds: [0.1, 1], bucketCounts: [1, 2, 0] }]
  })
  duration.record(2, { model: 'a' })
  await provider.forceFlush()
  expect(sink.metrics.get('duration')?.points[0]).toMatchObject({ count: 4, bucketCounts: [1, 2, 1] })
  await provider.shutdown()
})

it('counts the logs that the real exporter sends', async () => {
  await using sink = await startOtlpSink()
  const Exporter = load('exporter-logs-otlp-proto').OTLPLogExporter as Loaded[string]
  const exporter = new Exporter({ url: `${sink.url}/v1/logs` })
  const provider = new (LoggerProvider as Loaded[string])({
    processors: [new (SimpleLogRecordProcessor as Loaded[string])({ exporter })]
  })
  provider.getLogger('millrace').emit({ body: 'a line', attributes: { a: { b: 1 } } })
  await sink.waitFor(({ logs }) => logs === 1)
  expect(sink.text()).toContain('a line')
  await provider.shutdown()
})

it('is sent again what it first refused with 503 and Retry-After', async () => {
  await using sink = await startOtlpSink({ behaviour: { status: 503, retryAfter: 1 } })
  const provider = tracing(sink, 'proto')
  provider.getTracer('millrace').startSpan('again').end()
  await sink.waitFor(({ requests }) => requests.length === 1)
  expect(sink.spans).toEqual([])
  await sink.behave('take')
  await sink.waitFor(({ spans }) => spans[0]?.name === 'again')
  expect(sink.requests.map(({ taken }) => taken)).toEqual([false, true])
  await provider.shutdown()
})

it.each(['proto', 'http'])('sees it when the real exporter sends a span twice: %s', async (encoding) => {
  const sink = await startOtlpSink()
  const twice = ['first', 'second'].map(() => simpleProcessor(sink, encoding))
  const provider = new (TracerProvider as Loaded[string])({ spanProcessors: twice })
  provider.getTracer('millrace').startSpan('twice').end()
  await sink.waitFor(({ requests }) => requests.length === 2)
  expect(sink.requests.map(({ taken }) => taken)).toEqual([true, false])
  expect(sink.spans.map(({ name }) => name)).toEqual(['twice'])
  await provider.shutdown()
  await expect(sink.close()).rejects.toThrow(/the span [\da-f]{16} \("twice"\) was sent twice/)
})

it('sees it when the real exporter sends half of a surrogate pair in JSON', async () => {
  const sink = await startOtlpSink()
  const provider = tracing(sink, 'http')
  provider
    .getTracer('millrace')
    .startSpan('cut', { attributes: { text: 'x\ud83d' } })
    .end()
  await sink.waitFor(({ requests }) => requests.length === 1)
  await provider.shutdown()
  await expect(sink.close()).rejects.toThrow('AnyValue.stringValue is no string of whole characters')
})

it.each(['stall', 'refuse', 'reset'] as const)('leaves a real exporter without success: %s', async (behaviour) => {
  const probe = probeLeaks()
  const sink = await startOtlpSink({ behaviour })
  const Exporter = load('exporter-trace-otlp-proto').OTLPTraceExporter as Loaded[string]
  const exporter = new Exporter({ url: `${sink.url}/v1/traces`, timeoutMillis: 300 })
  const provider = new (TracerProvider as Loaded[string])({
    spanProcessors: [new (BatchSpanProcessor as Loaded[string])({ exporter })]
  })
  provider.getTracer('millrace').startSpan('lost').end()
  await provider.shutdown().catch(() => {})
  expect(sink.spans).toEqual([])
  expect(sink.requests.length > 0).toBe(behaviour !== 'refuse')
  await sink.close()
  await probe.check()
})
