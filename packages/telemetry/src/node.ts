import { checkOptions, MillraceError } from '@millrace/core'
import { type NodeSpanStats, startExport } from './export.ts'
import { createReporter } from './report.ts'
import { checkSampling, type SamplingOptions } from './sampling.ts'
import { type MetricExporter, metricExporters, readSettings, type TraceExporter, traceExporters } from './settings.ts'
import { createTelemetry, type Telemetry, type TelemetryOptions, type TelemetryStats, telemetryOptionNames } from './telemetry.ts'

export type { TelemetryCallOptions } from './call-options.ts'
export type { NodeSpanStats } from './export.ts'
export {
  createTailSampling,
  type EndedSpan,
  type SamplingOptions,
  type SpanProcessorLike,
  type TailSampling,
  type TailSamplingOptions,
  type TailSamplingStats
} from './sampling.ts'
export type { MetricExporter, TraceExporter } from './settings.ts'
export type { SpanQueueStats } from './span-queue.ts'

export interface NodeTelemetryOptions extends Omit<TelemetryOptions, 'tracerProvider' | 'meterProvider'> {
  /** @default OTEL_SERVICE_NAME, else the SDK's `unknown_service:node` */
  readonly serviceName?: string | undefined
  /** Where spans go. @default OTEL_TRACES_EXPORTER; without it `['otlp']` if an OTLP endpoint is set, else none: `[]` */
  readonly traces?: readonly TraceExporter[] | undefined
  /**
   * Where metrics go; for `prometheus`, serve what `prometheus()` gives.
   * @default OTEL_METRICS_EXPORTER; without it `['otlp']` if an OTLP endpoint is set, else none: `[]`
   */
  readonly metrics?: readonly MetricExporter[] | undefined
  /** @default everything, or OTEL_TRACES_SAMPLER_ARG where OTEL_TRACES_SAMPLER is a traceidratio */
  readonly sampling?: SamplingOptions | undefined
  /** How long `close` may take, in milliseconds. @default 2000 */
  readonly shutdownMs?: number | undefined
  /**
   * Told what went wrong with the export, each thing at most once a minute; no message holds a header, a path, a
   * credential or content. What it throws or rejects with is counted in `stats().failures`.
   * @default a line of `console.warn`
   */
  readonly onError?: ((error: Error) => unknown) | undefined
}

export interface NodeTelemetryStats extends TelemetryStats {
  readonly spans: NodeSpanStats
}

export interface NodeTelemetry extends Telemetry {
  /**
   * The text that a Prometheus scrapes, and its content type.
   *
   * @throws {MillraceError} `closed`
   * @throws {TypeError} `metrics` has no `prometheus`
   */
  prometheus(): Promise<{ readonly contentType: string; readonly body: string }>
  stats(): NodeTelemetryStats
  /**
   * Ends the spans of calls under way, exports what there is, and shuts the SDK down, all within `shutdownMs`; what the
   * collector has not taken by then is dropped and counted. It always resolves, and is safe to call twice.
   */
  close(): Promise<void>
}

/**
 * Starts OpenTelemetry's Node SDK with exporters that hold no call up, and listens with `createTelemetry`. It needs the
 * package `@opentelemetry/sdk-node` (0.301 or later), reads the OTEL_* variables, and loads nothing where nothing is to be
 * exported: without an endpoint or an exporter in variables or options, nothing is. Of the resource it tells the service and
 * OTEL_RESOURCE_ATTRIBUTES only: command lines hold secrets. A process that never closes it exits all the same, at most
 * OTEL_EXPORTER_OTLP_TIMEOUT later if an export is under way, and loses the spans that wait.
 *
 * @throws {TypeError} a wrong option, OTLP over gRPC, an SDK that is missing, too old or running already
 *
 * @example
 * await using telemetry = await startTelemetry({ serviceName: 'gateway', metrics: ['otlp', 'prometheus'] })
 */
export async function startTelemetry(options: NodeTelemetryOptions = {}): Promise<NodeTelemetry> {
  checkOptions<NodeTelemetryOptions>('startTelemetry', options, {
    serviceName: 1,
    traces: 1,
    metrics: 1,
    sampling: 1,
    shutdownMs: 1,
    onError: 1,
    ...listeningNames
  })
  const { serviceName, traces, metrics, sampling = {}, shutdownMs = 2000, onError, ...listening } = options
  checkNames('traces', traces, traceExporters)
  checkNames('metrics', metrics, metricExporters)
  if (serviceName !== undefined && typeof serviceName !== 'string') throw new TypeError('serviceName must be a text')
  if (typeof shutdownMs !== 'number' || !(shutdownMs >= 0 && shutdownMs < 2 ** 31)) {
    throw new TypeError('shutdownMs must be a number of milliseconds, below 2 ** 31')
  }
  if (onError !== undefined && typeof onError !== 'function') throw new TypeError('onError must be a function')

  checkSamplingOptions(sampling)

  const reporter = createReporter(onError)
  const settings = readSettings(process.env, reporter.report)
  const { ratio = settings.ratio, slowMs = 10_000 } = sampling

  const chosen = { traces: traces ?? settings.traces, metrics: metrics ?? settings.metrics }
  const exporting =
    settings.disabled || (chosen.traces.length === 0 && chosen.metrics.length === 0 && !settings.logs)
      ? undefined
      : startExport({ ...settings, ...chosen, serviceName, ratio, slowMs, report: reporter.report })
  const telemetry = await listen()
  let closing: Promise<void> | undefined

  async function listen(): Promise<Telemetry> {
    try {
      return createTelemetry(listening)
    } catch (error) {
      await exporting?.close(0)
      throw error
    }
  }

  async function shutDown(): Promise<void> {
    // First the calls under way: the spans they end with are exported too.
    await telemetry.close()
    await exporting?.close(shutdownMs)
  }

  function close(): Promise<void> {
    closing ??= shutDown()
    return closing
  }

  return {
    ...telemetry,
    async prometheus() {
      if (closing !== undefined)
        throw new MillraceError('closed', 'this telemetry is closed (`await using` closes at the end of its block)', {
          details: {}
        })
      if (!chosen.metrics.includes('prometheus')) {
        throw new TypeError("prometheus() needs startTelemetry({ metrics: ['prometheus'] }), or OTEL_METRICS_EXPORTER=prometheus")
      }
      const body = (await exporting?.prometheus()) ?? ''
      return { contentType: 'text/plain; version=0.0.4; charset=utf-8', body }
    },
    stats() {
      const { failures, ...counts } = telemetry.stats()
      const { failures: more = 0, spans = noSpans } = exporting?.stats() ?? {}
      return { ...counts, failures: failures + more + reporter.failures, spans }
    },
    close,
    [Symbol.asyncDispose]: close
  }
}

const { tracerProvider: _tracer, meterProvider: _meter, ...listeningNames } = telemetryOptionNames

const noSpans: NodeSpanStats = { ended: 0, sampledOut: 0, queued: 0, exported: 0, dropped: 0, failed: 0 }

function checkSamplingOptions(sampling: unknown): void {
  if (typeof sampling === 'number') throw new TypeError(`sampling takes an object of options: write { ratio: ${sampling} }`)
  checkOptions<SamplingOptions>('sampling', sampling as SamplingOptions, { ratio: 1, slowMs: 1 })
  const { ratio = 1, slowMs = 0 } = sampling as SamplingOptions
  if (typeof ratio !== 'number' || typeof slowMs !== 'number') throw new TypeError('ratio and slowMs must be numbers')
  checkSampling({ ratio, slowMs })
}

function checkNames(option: string, names: readonly string[] | undefined, known: readonly string[]): void {
  if (names === undefined) return
  if (Array.isArray(names) && names.every((name) => known.includes(name))) return
  throw new TypeError(`${option} must be a list of ${known.map((name) => `'${name}'`).join(', ')}; [] for none`)
}
