/** What goes to a collector. */
export type Signal = 'traces' | 'metrics'

export const traceExporters = ['otlp', 'console'] as const
export const metricExporters = ['otlp', 'prometheus', 'console'] as const
export type TraceExporter = (typeof traceExporters)[number]
export type MetricExporter = (typeof metricExporters)[number]

/** What the specification's environment variables say, with its defaults and bounds. */
export interface Settings {
  readonly disabled: boolean
  readonly traces: readonly TraceExporter[]
  readonly metrics: readonly MetricExporter[]
  /** Logs are left to the SDK, if asked for. */
  readonly logs: boolean
  /** Undefined where the SDK's sampler decides. */
  readonly ratio: number | undefined
  readonly batch: {
    readonly maxQueueSize: number
    readonly maxExportBatchSize: number
    readonly scheduledDelayMillis: number
    readonly exportTimeoutMillis: number
  }
  readonly reader: { readonly exportIntervalMillis: number; readonly exportTimeoutMillis: number }
  /**
   * How the exporter of a signal writes.
   *
   * @throws {TypeError} OTLP over gRPC is asked for
   */
  protocol(signal: Signal): 'proto' | 'http'
}

const endpoints = [
  'OTEL_EXPORTER_OTLP_ENDPOINT',
  'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
  'OTEL_EXPORTER_OTLP_METRICS_ENDPOINT'
] as const

type Environment = Readonly<Record<string, string | undefined>>

/** Reads the environment as the specification asks: what it does not understand it tells and takes as unset. */
export function readSettings(env: Environment, warn: (text: string) => void): Settings {
  const text = (name: string): string | undefined => env[name]?.trim() || undefined

  function number(name: string, fallback: number, min = 1, max = Number.MAX_SAFE_INTEGER): number {
    const given = text(name)
    if (given === undefined) return fallback
    const value = Number(given)
    if (value >= min && value <= max) return value
    warn(`${name} must be a number from ${min}${max === Number.MAX_SAFE_INTEGER ? '' : ` to ${max}`}; ${fallback} is used`)
    return fallback
  }

  function exporters<Name extends string>(signal: Signal, known: readonly Name[]): readonly Name[] {
    const variable = `OTEL_${signal.toUpperCase()}_EXPORTER`
    const given = text(variable)
    if (given === undefined) {
      const set = [endpoints[0], `OTEL_EXPORTER_OTLP_${signal.toUpperCase()}_ENDPOINT`].some(text)
      return set ? known.slice(0, 1) : []
    }
    const names = given.split(',').map((name) => name.trim())
    if (names.includes('none')) return []
    const found = known.filter((name) => names.includes(name))
    if (found.length < new Set(names).size) warn(`${variable} knows ${known.join(', ')} and none; others are left out`)
    return found
  }

  function protocol(signal: Signal): 'proto' | 'http' {
    const variables = [`OTEL_EXPORTER_OTLP_${signal.toUpperCase()}_PROTOCOL`, 'OTEL_EXPORTER_OTLP_PROTOCOL']
    const variable = variables.find(text)
    const given = variable === undefined ? 'http/protobuf' : text(variable)
    if (given === 'grpc')
      throw new TypeError(`${variable}=grpc is not supported: use http/protobuf, to the HTTP port of the collector (4318)`)
    if (given === 'http/json') return 'http'
    if (given !== 'http/protobuf') warn(`${variable} knows http/protobuf and http/json; http/protobuf is used`)
    return 'proto'
  }

  for (const name of endpoints) {
    // Its value is not told: it may hold credentials.
    if (!URL.canParse(text(name) ?? 'http://unset')) warn(`${name} is no URL; the SDK takes http://localhost:4318`)
  }
  const traces = exporters('traces', traceExporters)
  const metrics = exporters('metrics', metricExporters)
  const maxQueueSize = number('OTEL_BSP_MAX_QUEUE_SIZE', 2048)
  const exportIntervalMillis = number('OTEL_METRIC_EXPORT_INTERVAL', 60_000)
  const sampler = text('OTEL_TRACES_SAMPLER')
  return {
    disabled: text('OTEL_SDK_DISABLED')?.toLowerCase() === 'true',
    traces,
    metrics,
    logs: (text('OTEL_LOGS_EXPORTER') ?? 'none') !== 'none',
    ratio: sampler?.endsWith('always_off')
      ? undefined
      : sampler?.endsWith('traceidratio')
        ? number('OTEL_TRACES_SAMPLER_ARG', 1, 0, 1)
        : 1,
    batch: {
      maxQueueSize,
      maxExportBatchSize: Math.min(maxQueueSize, number('OTEL_BSP_MAX_EXPORT_BATCH_SIZE', 512)),
      scheduledDelayMillis: number('OTEL_BSP_SCHEDULE_DELAY', 5000),
      exportTimeoutMillis: number('OTEL_BSP_EXPORT_TIMEOUT', 30_000)
    },
    // A reader refuses a timeout above its interval.
    reader: {
      exportIntervalMillis,
      exportTimeoutMillis: Math.min(exportIntervalMillis, number('OTEL_METRIC_EXPORT_TIMEOUT', 10_000))
    },
    protocol
  }
}
