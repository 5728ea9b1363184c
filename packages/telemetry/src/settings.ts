import { contentAnswers } from './content.ts'

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

const samplers = ['always_on', 'always_off', 'traceidratio'].flatMap((name) => [name, `parentbased_${name}`])

/** A longer time would be 1 ms to a timer of Node's. */
const maxMs = 2 ** 31 - 1

/** More spans than any process has memory for. */
const maxSize = 1_000_000

type Environment = Readonly<Record<string, string | undefined>>

/** Reads the environment as the specification asks: what it does not understand it tells and takes as unset. */
export function readSettings(env: Environment, warn: (text: string) => void): Settings {
  const text = (name: string): string | undefined => env[name]?.trim() || undefined

  function number(name: string, fallback: number, min: number, max: number, isUsable = Number.isFinite): number {
    const given = text(name)
    if (given === undefined) return fallback
    const value = Number(given)
    if (isUsable(value) && value >= min && value <= max) return value
    const kind = isUsable === Number.isFinite ? 'number' : 'whole number'
    warn(`${name} must be a ${kind} from ${min} to ${max}; ${fallback} is used`)
    return fallback
  }

  const size = (name: string, fallback: number): number => number(name, fallback, 1, maxSize, Number.isSafeInteger)
  const milliseconds = (name: string, fallback: number): number => number(name, fallback, 1, maxMs)

  /** One of a few words, in any case. */
  function word(name: string, known: readonly string[], then: string): string | undefined {
    const given = text(name)?.toLowerCase()
    if (given === undefined || known.includes(given)) return given
    warn(`${name} knows ${known.join(', ')}; ${then}`)
    return undefined
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
    const url = URL.parse(text(name) ?? 'http://unset')
    if (url === null) warn(`${name} must begin with http:// or https://; the SDK takes http://localhost:4318`)
    else if (!/^https?:$/.test(url.protocol)) warn(`${name} must begin with http:// or https://; nothing reaches it as it is`)
  }
  // The exporters read these by themselves, and say nothing of what they leave out.
  for (const prefix of ['OTEL_EXPORTER_OTLP_', 'OTEL_EXPORTER_OTLP_TRACES_', 'OTEL_EXPORTER_OTLP_METRICS_']) {
    const ms = Number(text(`${prefix}TIMEOUT`) ?? 1)
    if (!(Number.isFinite(ms) && ms > 0)) warn(`${prefix}TIMEOUT must be a number of milliseconds above 0; it is taken as unset`)
    const headers = text(`${prefix}HEADERS`)?.split(',') ?? []
    // Its value is not told: it holds credentials.
    if (headers.some((entry) => /^\s*(=|[^=\s][^=]*$)/.test(entry))) {
      warn(`${prefix}HEADERS must be name=value,name=value; what has no "=" is left out`)
    }
    if (!['none', 'gzip'].includes(text(`${prefix}COMPRESSION`) ?? 'none'))
      warn(`${prefix}COMPRESSION knows none and gzip; it is taken as unset`)
  }
  if (!isResource(text('OTEL_RESOURCE_ATTRIBUTES') ?? '')) {
    warn('OTEL_RESOURCE_ATTRIBUTES must be name=value,name=value with other "," and "=" percent-encoded; none of it is used')
  }
  word('OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT', Array.from(contentAnswers.keys()), 'no content is captured')
  const traces = exporters('traces', traceExporters)
  const metrics = exporters('metrics', metricExporters)
  const maxQueueSize = size('OTEL_BSP_MAX_QUEUE_SIZE', 2048)
  const exportIntervalMillis = milliseconds('OTEL_METRIC_EXPORT_INTERVAL', 60_000)
  const sampler = word('OTEL_TRACES_SAMPLER', samplers, 'everything is recorded')
  return {
    disabled: word('OTEL_SDK_DISABLED', ['true', 'false'], 'it is not disabled') === 'true',
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
      maxExportBatchSize: Math.min(maxQueueSize, size('OTEL_BSP_MAX_EXPORT_BATCH_SIZE', 512)),
      scheduledDelayMillis: milliseconds('OTEL_BSP_SCHEDULE_DELAY', 5000),
      exportTimeoutMillis: milliseconds('OTEL_BSP_EXPORT_TIMEOUT', 30_000)
    },
    // A reader refuses a timeout above its interval.
    reader: {
      exportIntervalMillis,
      exportTimeoutMillis: Math.min(exportIntervalMillis, milliseconds('OTEL_METRIC_EXPORT_TIMEOUT', 10_000))
    },
    protocol
  }
}

/** As the SDK reads it: one wrong entry, and all are lost. */
function isResource(given: string): boolean {
  try {
    decodeURIComponent(given)
    return given.split(',').every((entry) => entry.trim() === '' || /^\s*[^=\s][^=]*=[^=]*$/.test(entry))
  } catch {
    // Not percent-encoded.
    return false
  }
}
