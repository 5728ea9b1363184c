import { createRequire } from 'node:module'
import type { SpanProcessorLike } from './sampling.ts'
import type { SpanExporterLike } from './span-queue.ts'

// What is used of the SDK, written out: the types of a package that the user has not installed would not compile.

type Processor = SpanProcessorLike<object, never>

export interface MetricReader {
  collect(): Promise<{ readonly resourceMetrics: unknown; readonly errors: readonly unknown[] }>
}

interface NodeSdkOptions {
  readonly serviceName?: string | undefined
  readonly resourceDetectors?: readonly object[] | undefined
  readonly spanProcessors: readonly Processor[]
  readonly metricReaders: readonly MetricReader[]
  readonly logRecordProcessors?: readonly never[] | undefined
  readonly sampler?: object | undefined
}

interface Modules {
  readonly '@opentelemetry/sdk-node': {
    readonly NodeSDK: new (options: NodeSdkOptions) => { start(): void; shutdown(): Promise<void> }
  }
  readonly '@opentelemetry/sdk-trace': {
    readonly AlwaysOnSampler: new () => object
    readonly ConsoleSpanExporter: new () => SpanExporterLike
    readonly SimpleSpanProcessor: new (options: { readonly exporter: SpanExporterLike }) => Processor
    readonly BatchSpanProcessor: new (options: {
      readonly exporter: SpanExporterLike
      readonly maxQueueSize: number
      readonly maxExportBatchSize: number
      readonly scheduledDelayMillis: number
      readonly exportTimeoutMillis: number
    }) => Processor
  }
  readonly '@opentelemetry/sdk-metrics': {
    readonly ConsoleMetricExporter: new () => object
    readonly PeriodicExportingMetricReader: new (options: {
      readonly exporter: object
      readonly exportIntervalMillis: number
      readonly exportTimeoutMillis: number
    }) => MetricReader
  }
  readonly '@opentelemetry/exporter-prometheus': {
    readonly PrometheusExporter: new (options: { readonly preventServerStart: true }) => MetricReader
    readonly PrometheusSerializer: new () => { serialize(resourceMetrics: unknown): string }
  }
  readonly '@opentelemetry/exporter-trace-otlp-proto': { readonly OTLPTraceExporter: new () => SpanExporterLike }
  readonly '@opentelemetry/exporter-trace-otlp-http': { readonly OTLPTraceExporter: new () => SpanExporterLike }
  readonly '@opentelemetry/exporter-metrics-otlp-proto': { readonly OTLPMetricExporter: new () => object }
  readonly '@opentelemetry/exporter-metrics-otlp-http': { readonly OTLPMetricExporter: new () => object }
  readonly '@opentelemetry/resources': { readonly envDetector: object; readonly serviceInstanceIdDetector: object }
  readonly '@opentelemetry/api': { readonly logs?: { disable(): void } }
}

/** Gives a package of the SDK by name. */
export type Load = <Name extends keyof Modules>(name: Name) => Modules[Name]

/**
 * Finds the SDK that the app installed. Everything comes from `@opentelemetry/sdk-node`'s own dependencies, so that there is
 * one copy of each and nothing else to install; each is loaded when it is asked for.
 *
 * @throws {TypeError} it is not installed
 */
export function findSdk(): Load {
  let path: string
  try {
    path = createRequire(import.meta.url).resolve('@opentelemetry/sdk-node')
  } catch (cause) {
    throw new TypeError('startTelemetry needs @opentelemetry/sdk-node: npm install @opentelemetry/sdk-node', { cause })
  }
  return createRequire(path) as Load
}
