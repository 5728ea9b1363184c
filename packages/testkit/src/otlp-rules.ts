import type { OtlpMetric, OtlpPoint, OtlpSpan } from './otlp-data.ts'

/** @throws {Error} for a span that cannot be, though its bytes are well formed */
export function checkSpan(span: OtlpSpan): void {
  const { name, spanId, startTimeUnixNano: start, endTimeUnixNano: end } = span
  const refuse = refusing(`the span ${spanId} ("${name}")`)
  if (name === '') refuse('has no name')
  if (start === 0n) refuse('has no start')
  if (end === 0n) refuse('has no end')
  if (end < start) refuse(`ends before it starts, by ${start - end} ns`)
  if (span.parentSpanId === spanId) refuse('is its own parent')
  for (const event of span.events) {
    if (event.name === '') refuse('has an event without a name')
    if (event.timeUnixNano === 0n) refuse('has an event without a time')
  }
}

/** @throws {Error} for a metric that cannot be, though its bytes are well formed */
export function checkMetric(metric: OtlpMetric): void {
  const refuse = refusing(`the metric "${metric.name}"`)
  if (metric.name === '') refuse('has no name')
  if (metric.kind !== 'gauge' && metric.temporality === 'unspecified') refuse('has an unspecified temporality')
  const series = new Set<string>()
  for (const point of metric.points) {
    if (point.timeUnixNano === 0n) refuse('has a point without a time')
    if (point.startTimeUnixNano > point.timeUnixNano) refuse('has a point that ends before it starts')
    // Written so that NaN is refused too.
    if (metric.monotonic && !((point.value as number) >= 0)) refuse(`only grows, and is ${point.value}`)
    if (metric.kind === 'histogram') checkBuckets(point, refuse)
    const { min = -Infinity, max = Infinity } = point
    if (min > max) refuse(`has a min of ${min} and a max of ${max}`)
    const key = JSON.stringify(point.attributes, inOrder)
    if (series.has(key)) refuse(`has two points of the attributes ${key}`)
    series.add(key)
  }
}

function checkBuckets({ count = 0, bounds = [], bucketCounts = [] }: OtlpPoint, refuse: Refuse): void {
  if (!bounds.every((bound, i) => Number.isFinite(bound) && bound > (bounds[i - 1] ?? -Infinity))) {
    refuse(`has bounds that do not rise, or not finitely: ${bounds.join(', ')}`)
  }
  // Count and sum alone are a histogram as well.
  if (bounds.length === 0 && bucketCounts.length === 0) return
  if (bucketCounts.length !== bounds.length + 1) refuse(`has ${bucketCounts.length} buckets for ${bounds.length} bounds`)
  const inBuckets = bucketCounts.reduce((sum, each) => sum + each, 0)
  if (inBuckets !== count) refuse(`has ${inBuckets} in its buckets and a count of ${count}`)
}

type Refuse = (what: string) => never

function refusing(who: string): Refuse {
  return (what) => {
    throw new Error(`${who} ${what}`)
  }
}

/** For `JSON.stringify`: the same text for the same attributes in another order. */
function inOrder(_: string, value: unknown): unknown {
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1)))
}
