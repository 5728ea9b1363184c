import { readFileSync } from 'node:fs'
import { createRequire, findPackageJSON } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Context } from '@opentelemetry/api'
import type { SpanProcessorLike } from './sampling.ts'
import type { SpanExporterLike } from './span-queue.ts'

// What is used of the SDK, written out: the types of a package that the user has not installed would not compile.

type Processor = SpanProcessorLike<object, never>

export interface MetricReader {
  collect(options: {
    readonly timeoutMillis: number
  }): Promise<{ readonly resourceMetrics: unknown; readonly errors: readonly unknown[] }>
}

interface NodeSdkOptions {
  readonly serviceName?: string | undefined
  readonly resourceDetectors?: readonly object[] | undefined
  readonly spanProcessors: readonly Processor[]
  readonly metricReaders: readonly MetricReader[]
  readonly logRecordProcessors?: readonly never[] | undefined
  readonly sampler?: object | undefined
  readonly views: readonly { readonly meterName: string; readonly aggregationCardinalityLimit: number }[]
}

interface Modules {
  readonly '@opentelemetry/sdk-node': {
    readonly NodeSDK: new (options: NodeSdkOptions) => { start(): void; shutdown(): Promise<void> }
  }
  readonly '@opentelemetry/sdk-trace': {
    readonly AlwaysOnSampler: new () => object
    readonly ConsoleSpanExporter: new () => SpanExporterLike
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
  readonly '@opentelemetry/api': { readonly logs?: { disable(): void; getLoggerProvider(): object } }
  readonly '@opentelemetry/core': { suppressTracing(context: Context): Context }
}

/** Gives a package of the SDK by name. */
export type Load = <Name extends keyof Modules>(name: Name) => Modules[Name]

const name = '@opentelemetry/sdk-node'
/** The first with the parts that we use; of those before, some have other names. */
const oldestMinor = 301

/**
 * Finds the SDK that the app installed. Everything comes from `@opentelemetry/sdk-node`'s own dependencies, so that there is
 * one copy of each and nothing else to install; each is loaded when it is asked for.
 *
 * @throws {TypeError} it is not installed, or too old
 */
export function findSdk(): Load {
  // A bundler that writes CommonJS leaves no `url`.
  const url = (import.meta as Partial<ImportMeta>).url ?? pathToFileURL(join(process.cwd(), 'x.js')).href
  let path: string
  try {
    path = createRequire(url).resolve(name)
  } catch (cause) {
    if ((cause as { readonly code?: unknown }).code !== 'MODULE_NOT_FOUND') throw cause
    throw new TypeError(`startTelemetry needs ${name}: npm install ${name}`, { cause })
  }
  const manifest = findPackageJSON(name, url)
  const { version } = JSON.parse(manifest === undefined ? '{}' : readFileSync(manifest, 'utf8')) as { readonly version?: string }
  const [major = 0, minor = 0] = (version ?? '1').split('.').map(Number)
  if (major === 0 && minor < oldestMinor) {
    throw new TypeError(`startTelemetry needs ${name} 0.${oldestMinor} or later; found ${version}: npm install ${name}@latest`)
  }
  return createRequire(path) as Load
}
