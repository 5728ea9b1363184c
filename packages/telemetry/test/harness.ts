import { type Chunk, type MillraceError, type Provider, sleep, type Usage } from '@millrace/core'
import { type DataPoint, type Histogram, MeterProvider, type MetricData, MetricReader } from '@opentelemetry/sdk-metrics'
import { InMemorySpanExporter, type ReadableSpan, SimpleSpanProcessor, TracerProvider } from '@opentelemetry/sdk-trace'
import { createTelemetry, type Telemetry, type TelemetryOptions } from '../src/index.ts'

class PullReader extends MetricReader {
  protected override async onShutdown(): Promise<void> {}
  protected override async onForceFlush(): Promise<void> {}
}

interface Point {
  readonly attributes: Readonly<Record<string, unknown>>
  /** The sum of a histogram's records, or a counter's value. */
  readonly value: number
  readonly count: number
  readonly boundaries: readonly number[]
}

export interface Harness extends AsyncDisposable {
  readonly telemetry: Telemetry
  readonly tracerProvider: TracerProvider
  spans(): readonly ReadableSpan[]
  metric(name: string): Promise<readonly Point[]>
  /** Everything exported, as one text. */
  everything(): Promise<string>
}

/** A telemetry with the real SDK behind it, exporting into memory. */
export function createHarness(options: TelemetryOptions = {}): Harness {
  const exporter = new InMemorySpanExporter()
  const tracerProvider = new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter })] })
  const reader = new PullReader()
  const meterProvider = new MeterProvider({ readers: [reader] })
  const telemetry = createTelemetry({ tracerProvider, meterProvider, ...options })

  async function collected(): Promise<readonly MetricData[]> {
    const { resourceMetrics, errors } = await reader.collect()
    if (errors.length > 0) throw new AggregateError(errors)
    return resourceMetrics.scopeMetrics.flatMap((scope) => scope.metrics)
  }

  return {
    telemetry,
    tracerProvider,
    spans: () => exporter.getFinishedSpans(),
    async metric(name) {
      const found = (await collected()).find((metric) => metric.descriptor.name === name)
      return (found?.dataPoints ?? []).map((point) => toPoint(point as DataPoint<number | Histogram>))
    },
    async everything() {
      const spans = exporter.getFinishedSpans().map(({ name, attributes, status, events, links }) => {
        return { name, attributes, status, events, links }
      })
      return JSON.stringify([spans, await collected()])
    },
    async [Symbol.asyncDispose]() {
      await telemetry.close()
      await tracerProvider.shutdown()
      await meterProvider.shutdown()
    }
  }
}

function toPoint({ attributes, value }: DataPoint<number | Histogram>): Point {
  if (typeof value === 'number') return { attributes, value, count: value, boundaries: [] }
  return { attributes, value: value.sum ?? 0, count: value.count, boundaries: value.buckets.boundaries }
}

export const usage: Usage = {
  input: { uncached: 100, cacheRead: 30, cacheWrite: 5 },
  output: { text: 40, reasoning: 8 },
  estimated: false,
  billed: true
}

export const answer: readonly Chunk[] = [
  { type: 'start', provider: 'openai', model: 'gpt-5.6-2026-10-01', id: 'chatcmpl-1' },
  { type: 'text', text: 'Hello' },
  { type: 'text', text: ' there' },
  { type: 'usage', usage },
  { type: 'finish', reason: 'stop' }
]

/** A provider that yields these chunks. */
export const provides = (chunks: readonly Chunk[] = answer): Provider =>
  async function* (_request, { signal }) {
    signal?.throwIfAborted()
    yield* chunks
  }

/** A provider that fails after `before`. */
export const fails = (error: MillraceError | Error, before: readonly Chunk[] = []): Provider =>
  async function* () {
    yield* before
    throw error
  }

/** A provider whose stream goes on until it is aborted or left. */
export const goesOn: Provider = async function* (_request, { signal }) {
  yield { type: 'start', provider: 'openai', model: 'gpt-5.6' }
  for (;;) {
    yield { type: 'text', text: 'more ' }
    await sleep(1, signal)
  }
}
