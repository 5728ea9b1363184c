import { checkMetric, checkSpan } from './otlp-rules.ts'
import type { Message, Value } from './protobuf.ts'

/** By name; a whole number above 2^53 is a bigint, bytes are a `Uint8Array`. */
export type OtlpAttributes = Readonly<Record<string, unknown>>

export interface OtlpScope {
  readonly name: string
  readonly version: string
}

export interface OtlpSpan {
  /** 32 digits of hex, in lower case; `spanId` has 16. */
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId: string | undefined
  readonly name: string
  /** A word, for OTLP counts from 1 where the API's `SpanKind` counts from 0. */
  readonly kind: 'unspecified' | 'internal' | 'server' | 'client' | 'producer' | 'consumer'
  readonly startTimeUnixNano: bigint
  readonly endTimeUnixNano: bigint
  readonly attributes: OtlpAttributes
  readonly events: readonly { readonly name: string; readonly timeUnixNano: bigint; readonly attributes: OtlpAttributes }[]
  readonly links: readonly { readonly traceId: string; readonly spanId: string; readonly attributes: OtlpAttributes }[]
  readonly status: { readonly code: 'unset' | 'ok' | 'error'; readonly message: string }
  /** The resource's attributes. */
  readonly resource: OtlpAttributes
  readonly scope: OtlpScope
}

export interface OtlpMetric {
  readonly name: string
  readonly unit: string
  readonly description: string
  readonly kind: 'sum' | 'gauge' | 'histogram' | 'exponential-histogram'
  /** False for all but a sum that only grows. */
  readonly monotonic: boolean
  /** A gauge has none, which is `unspecified`. */
  readonly temporality: 'unspecified' | 'delta' | 'cumulative'
  readonly points: readonly OtlpPoint[]
  readonly resource: OtlpAttributes
  readonly scope: OtlpScope
}

/** One series of a metric: `value` of a sum or a gauge, `count` and the rest of a histogram. */
export interface OtlpPoint {
  readonly attributes: OtlpAttributes
  readonly startTimeUnixNano: bigint
  readonly timeUnixNano: bigint
  readonly value?: number | undefined
  readonly count?: number | undefined
  readonly sum?: number | undefined
  readonly min?: number | undefined
  readonly max?: number | undefined
  /** Upper bounds in rising order; an exponential histogram has none here, its buckets are not read. */
  readonly bounds?: readonly number[] | undefined
  /** One more than `bounds`, each by itself and not added up as Prometheus shows them. */
  readonly bucketCounts?: readonly number[] | undefined
}

const spanKinds = ['unspecified', 'internal', 'server', 'client', 'producer', 'consumer'] as const
const statusCodes = ['unset', 'ok', 'error'] as const
const metricKinds = {
  sum: 'sum',
  gauge: 'gauge',
  histogram: 'histogram',
  exponentialHistogram: 'exponential-histogram'
} as const
const temporalities = ['unspecified', 'delta', 'cumulative'] as const

/**
 * The spans of an `ExportTraceServiceRequest`.
 *
 * @throws {Error} for an id of a wrong length, a number that stands for nothing, or a span that cannot be
 */
export function spansOf(request: Message): OtlpSpan[] {
  const spans = inScopes(request, 'resourceSpans', 'scopeSpans', 'spans', spanOf)
  for (const span of spans) checkSpan(span)
  return spans
}

/**
 * The metrics of an `ExportMetricsServiceRequest`.
 *
 * @throws {Error} for a metric without data that is read here, such as a summary, or one that cannot be
 */
export function metricsOf(request: Message): OtlpMetric[] {
  const metrics = inScopes(request, 'resourceMetrics', 'scopeMetrics', 'metrics', (metric, { resource, scope }): OtlpMetric => {
    const name = textOf(metric.name)
    const [kind, data] = dataOf(name, metric)
    return {
      name,
      unit: textOf(metric.unit),
      description: textOf(metric.description),
      kind,
      monotonic: data.isMonotonic === true,
      temporality: wordOf(temporalities, data.aggregationTemporality),
      points: listOf(data.dataPoints).map((point) => ({
        attributes: attributesOf(point.attributes),
        startTimeUnixNano: timeOf(point.startTimeUnixNano),
        timeUnixNano: timeOf(point.timeUnixNano),
        ...(kind === 'sum' || kind === 'gauge' ? { value: numberOf(name, point) } : histogramOf(point))
      })),
      resource,
      scope
    }
  })
  for (const metric of metrics) checkMetric(metric)
  return metrics
}

/** How many records an `ExportLogsServiceRequest` has. */
export function countLogs(request: Message): number {
  return inScopes(request, 'resourceLogs', 'scopeLogs', 'logRecords', () => 1).length
}

function spanOf(span: Message, { resource, scope }: Place): OtlpSpan {
  return {
    traceId: idOf(span.traceId, 32),
    spanId: idOf(span.spanId, 16),
    parentSpanId: span.parentSpanId === undefined || span.parentSpanId === '' ? undefined : idOf(span.parentSpanId, 16),
    name: textOf(span.name),
    kind: wordOf(spanKinds, span.kind),
    startTimeUnixNano: timeOf(span.startTimeUnixNano),
    endTimeUnixNano: timeOf(span.endTimeUnixNano),
    attributes: attributesOf(span.attributes),
    events: listOf(span.events).map((event) => ({
      name: textOf(event.name),
      timeUnixNano: timeOf(event.timeUnixNano),
      attributes: attributesOf(event.attributes)
    })),
    links: listOf(span.links).map((link) => ({
      traceId: idOf(link.traceId, 32),
      spanId: idOf(link.spanId, 16),
      attributes: attributesOf(link.attributes)
    })),
    status: {
      code: wordOf(statusCodes, (span.status as Message | undefined)?.code),
      message: textOf((span.status as Message | undefined)?.message)
    },
    resource,
    scope
  }
}

function dataOf(name: string, metric: Message): [OtlpMetric['kind'], Message] {
  const kinds = Object.entries(metricKinds).filter(([field]) => metric[field] !== undefined)
  const [found] = kinds
  if (found === undefined) throw new Error(`the metric "${name}" is no sum, gauge or histogram`)
  if (kinds.length > 1) throw new Error(`the metric "${name}" is ${kinds.map(([, kind]) => kind).join(' and ')}`)
  return [found[1], metric[found[0]] as Message]
}

function numberOf(name: string, { asDouble, asInt }: Message): number {
  if ((asDouble === undefined) === (asInt === undefined)) {
    throw new Error(`the metric "${name}" has a point with ${asInt === undefined ? 'no value' : 'two values'}`)
  }
  return Number(asDouble ?? asInt)
}

function histogramOf(point: Message): Partial<OtlpPoint> {
  return {
    count: Number(point.count ?? 0),
    sum: point.sum as number | undefined,
    min: point.min as number | undefined,
    max: point.max as number | undefined,
    bounds: (point.explicitBounds ?? []) as readonly number[],
    bucketCounts: ((point.bucketCounts ?? []) as readonly bigint[]).map(Number)
  }
}

interface Place {
  readonly resource: OtlpAttributes
  readonly scope: OtlpScope
}

/** What lies in the scopes of the resources, each with where it lies. */
function inScopes<T>(
  request: Message,
  resources: string,
  scopes: string,
  items: string,
  read: (item: Message, place: Place) => T
): T[] {
  return listOf(request[resources]).flatMap((ofResource) => {
    const resource = attributesOf((ofResource.resource as Message | undefined)?.attributes)
    return listOf(ofResource[scopes]).flatMap((ofScope) => {
      const { name, version } = (ofScope.scope ?? {}) as Message
      const scope = { name: textOf(name), version: textOf(version) }
      return listOf(ofScope[items]).map((item) => read(item, { resource, scope }))
    })
  })
}

function listOf(value: Value): readonly Message[] {
  return (value ?? []) as readonly Message[]
}

function textOf(value: Value): string {
  return (value ?? '') as string
}

function timeOf(value: Value): bigint {
  return (value ?? 0n) as bigint
}

function idOf(value: Value, digits: number): string {
  const id = textOf(value)
  if (id.length !== digits || /^0*$/.test(id)) throw new Error(`an id of ${digits} digits, not all 0, in place of "${id}"`)
  return id
}

function wordOf<T>(words: readonly T[], value: Value): T {
  const number = (value ?? 0) as number
  const word = words[number]
  if (word === undefined) throw new Error(`${number} in place of a number from 0 to ${words.length - 1}`)
  return word
}

function attributesOf(list: Value): OtlpAttributes {
  const attributes = mapOf(list)
  if (Object.hasOwn(attributes, '')) throw new Error('an attribute without a key')
  return attributes
}

/** `Object.fromEntries` takes any name, `__proto__` too. */
function mapOf(list: Value): OtlpAttributes {
  const entries = listOf(list).map(({ key, value }) => [textOf(key), anyOf(value as Message | undefined)] as const)
  const map = Object.fromEntries(entries)
  if (Object.keys(map).length < entries.length) throw new Error(`a name twice among ${entries.map(([key]) => key).join(', ')}`)
  return map
}

function anyOf(value: Message | undefined): unknown {
  if (value === undefined) return undefined
  const fields = Object.keys(value)
  if (fields.length > 1) throw new Error(`a value that is two: ${fields.join(' and ')}`)
  const { intValue, arrayValue, kvlistValue } = value
  if (typeof intValue === 'bigint') return Number.isSafeInteger(Number(intValue)) ? Number(intValue) : intValue
  if (arrayValue !== undefined) return listOf((arrayValue as Message).values).map(anyOf)
  if (kvlistValue !== undefined) return mapOf((kvlistValue as Message).values)
  return value.stringValue ?? value.boolValue ?? value.doubleValue ?? value.bytesValue
}
