import { inspect } from 'node:util'
import { createTelemetry, type Telemetry, type TelemetryOptions } from '@millrace/telemetry'
import { type HrTime, SpanStatusCode } from '@opentelemetry/api'
import { MeterProvider, MetricReader } from '@opentelemetry/sdk-metrics'
import { type ReadableSpan, type SpanProcessor, TracerProvider } from '@opentelemetry/sdk-trace'

class PullReader extends MetricReader {
  protected override async onShutdown(): Promise<void> {}
  protected override async onForceFlush(): Promise<void> {}
}

/** A call as it was exported: its span, and those of its attempts in their order. */
export interface CallTrace {
  readonly span: ReadableSpan
  readonly attempts: readonly ReadableSpan[]
}

export interface Harness extends AsyncDisposable {
  readonly telemetry: Telemetry
  readonly tracerProvider: TracerProvider
  /** All spans that have ended, in the order of their ends. */
  spans(): readonly ReadableSpan[]
  calls(): readonly CallTrace[]
  /** Spans of requests that belong to no call. */
  strays(): readonly ReadableSpan[]
  /** What is wrong with the spans so far, such as one that was never ended, or ended twice. */
  objections(): readonly string[]
  /** Everything exported, as text: spans and metrics, whole. */
  everything(): Promise<string>
}

/** A telemetry with the real SDK behind it that keeps in memory what it exports, and counts how often each span is ended. */
export function createHarness(options: TelemetryOptions = {}): Harness {
  const started = new Map<string, string>()
  const endings = new Map<string, number>()
  const ended: ReadableSpan[] = []
  const processor: SpanProcessor = {
    onStart(span) {
      const { spanId } = span.spanContext()
      started.set(spanId, span.name)
      // The SDK passes on only the first end of a span, so the calls are counted where they are made.
      const end = span.end.bind(span)
      span.end = (time) => {
        endings.set(spanId, (endings.get(spanId) ?? 0) + 1)
        end(time)
      }
    },
    onEnd: (span) => void ended.push(span),
    forceFlush: () => Promise.resolve(),
    shutdown: () => Promise.resolve()
  }
  const tracerProvider = new TracerProvider({ spanProcessors: [processor] })
  const reader = new PullReader()
  const meterProvider = new MeterProvider({ readers: [reader] })
  const telemetry = createTelemetry({ tracerProvider, meterProvider, ...options })

  const calls = (): CallTrace[] =>
    ended.filter(isCall).map((span) => {
      const { spanId, traceId } = span.spanContext()
      const own = ended.filter((each) => each.parentSpanContext?.spanId === spanId && each.spanContext().traceId === traceId)
      return { span, attempts: own.toSorted((a, b) => millis(a.startTime) - millis(b.startTime)) }
    })

  function* object(): Generator<string, void, undefined> {
    for (const [spanId, name] of started) {
      const times = endings.get(spanId) ?? 0
      if (times !== 1) yield `"${name}" was ended ${times} times`
    }
    const byId = new Map(ended.map((span) => [span.spanContext().spanId, span]))
    if (byId.size !== ended.length) yield `${ended.length} spans came out, of ${byId.size} names`
    for (const span of ended) {
      if (millis(span.endTime) < millis(span.startTime)) yield `"${span.name}" ends before it starts`
      const parent = byId.get(span.parentSpanContext?.spanId ?? '')
      if (span.parentSpanContext === undefined) continue
      if (parent === undefined) yield `"${span.name}" has a parent that never ended`
      else if (parent.spanContext().traceId !== span.spanContext().traceId) yield `"${span.name}" is in another trace`
      else if (millis(span.startTime) < millis(parent.startTime)) yield `"${span.name}" starts before its parent`
      else if (millis(span.endTime) > millis(parent.endTime) + clockMs) yield `"${span.name}" ends behind its parent`
      const { code, message } = span.status
      if (message !== undefined) yield `"${span.name}" has a message`
      if ((code === SpanStatusCode.ERROR) !== 'error.type' in span.attributes) yield `"${span.name}" is of two minds`
    }
    const { open, failures } = telemetry.stats()
    if (open !== 0) yield `${open} calls are open`
    if (failures !== 0) yield `${failures} exceptions inside telemetry`
  }

  return {
    telemetry,
    tracerProvider,
    spans: () => ended,
    calls,
    strays: () => ended.filter((span) => !isCall(span) && span.parentSpanContext === undefined),
    objections: () => [...object()],
    async everything() {
      const { resourceMetrics, errors } = await reader.collect()
      if (errors.length > 0) throw new AggregateError(errors)
      const spans = ended.map(({ name, attributes, status, events, links, resource }) => {
        return { name, attributes, status, events, links, resource: resource.attributes }
      })
      return inspect([spans, resourceMetrics], { depth: 20, maxArrayLength: null, maxStringLength: null })
    },
    async [Symbol.asyncDispose]() {
      await telemetry.close()
      await tracerProvider.shutdown()
      await meterProvider.shutdown()
    }
  }
}

/** `chat {model}`, as against the method of an attempt. */
const isCall = ({ name }: ReadableSpan): boolean => name === 'chat' || name.startsWith('chat ')

/** Times are rounded to whole nanoseconds. */
const clockMs = 0.001

const millis = ([seconds, nanos]: HrTime): number => seconds * 1000 + nanos / 1e6
