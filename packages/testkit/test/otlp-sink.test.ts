import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:net'
import { gzipSync } from 'node:zlib'
import { describe, expect, it, test } from 'vitest'
import { type OtlpSink, probeLeaks, startOtlpSink } from '../src/index.ts'
import { bytes, double, fixed64, number, text } from './protobuf-writer.ts'

const examples = new URL('../../../../shared/real/suites/schemas/otel/', import.meta.url)
const noExamples = !existsSync(examples)
if (noExamples) console.warn('tests that need the OTLP examples of ../shared/real are skipped: they are not beside the checkout')

const traceId = '0af7651916cd43dd8448eb211c80319c'
const spanId = 'b7ad6b7169203331'
const startNano = 1_700_000_000_123_456_789n
const endNano = 1_700_000_001_000_000_000n

const attribute = (field: number, key: string, ...value: Buffer[]): Buffer => bytes(field, text(1, key), bytes(2, ...value))
const inScope = (...items: Buffer[]): Buffer =>
  bytes(1, bytes(1, attribute(1, 'service.name', text(1, 'shop'))), bytes(2, bytes(1, text(1, 'lib'), text(2, '1.2')), ...items))
let ids = 0
/** Another one each time. */
const newId = (): string => (++ids).toString(16).padStart(16, '0')
/** A span of its own; of a field that comes twice the last counts. */
const spanBytes = (name: string, ...more: Buffer[]): Buffer =>
  inScope(
    bytes(
      2,
      bytes(1, Buffer.from(traceId, 'hex')),
      bytes(2, Buffer.from(newId(), 'hex')),
      text(5, name),
      fixed64(7, startNano),
      fixed64(8, endNano),
      ...more
    )
  )
/** The same in JSON. */
const spanJson = (more: object = {}): object => ({
  traceId,
  spanId: newId(),
  name: 'chat',
  startTimeUnixNano: `${startNano}`,
  endTimeUnixNano: `${endNano}`,
  ...more
})
const spansJson = (...spans: object[]): object => ({ resourceSpans: [{ scopeSpans: [{ spans }] }] })
const point = { startTimeUnixNano: `${startNano}`, timeUnixNano: `${endNano}` }
const sumJson = (more: object = {}): object => ({ aggregationTemporality: 2, dataPoints: [{ ...point, asInt: '3' }], ...more })
const histogramJson = (more: object = {}, ofAll: object = {}): object => ({
  aggregationTemporality: 2,
  dataPoints: [{ ...point, count: '3', sum: 1.5, bucketCounts: ['1', '2', '0'], explicitBounds: [0.5, 1], ...more }],
  ...ofAll
})
const metricsJson = (metric: object): object => ({
  resourceMetrics: [{ scopeMetrics: [{ metrics: [{ name: 'calls', ...metric }] }] }]
})

async function send(
  sink: OtlpSink,
  body: Uint8Array | string,
  { path = '/v1/traces', ...headers }: { path?: string } & Record<string, string> = {}
): Promise<Response> {
  return fetch(`${sink.url}${path}`, {
    method: 'POST',
    body: typeof body === 'string' ? body : new Uint8Array(body),
    headers: { 'content-type': 'application/x-protobuf', ...headers }
  })
}

async function sendJson(sink: OtlpSink, body: object, path: string = '/v1/traces'): Promise<Response> {
  return send(sink, JSON.stringify(body), { path, 'content-type': 'application/json' })
}

it('reads a span of protobuf whole, and answers as a collector does', async () => {
  await using sink = await startOtlpSink()
  const response = await send(
    sink,
    spanBytes(
      'chat',
      bytes(2, Buffer.from(spanId, 'hex')),
      bytes(4, Buffer.from('00f067aa0ba902b7', 'hex')),
      number(6, 3),
      attribute(9, 'text', text(1, 'x')),
      attribute(9, 'yes', number(2, 1)),
      attribute(9, 'whole', number(3, -7)),
      attribute(9, 'large', number(3, 2n ** 60n)),
      attribute(9, 'half', double(4, 0.5)),
      attribute(9, 'list', bytes(5, bytes(1, text(1, 'a')), bytes(1, number(3, 2)))),
      attribute(9, 'map', bytes(6, attribute(1, 'in', text(1, 'side')))),
      attribute(9, '__proto__', text(1, 'harmless')),
      bytes(11, fixed64(1, 5n), text(2, 'exception'), attribute(3, 'exception.type', text(1, 'E'))),
      bytes(13, bytes(1, Buffer.from(traceId, 'hex')), bytes(2, Buffer.from(spanId, 'hex'))),
      bytes(15, text(2, 'broke'), number(3, 2))
    )
  )
  expect([response.status, response.headers.get('content-type')]).toEqual([200, 'application/x-protobuf'])
  expect((await response.arrayBuffer()).byteLength).toBe(0)
  const [span] = sink.spans
  expect(span?.attributes).toEqual({
    text: 'x',
    yes: true,
    whole: -7,
    large: 2n ** 60n,
    half: 0.5,
    list: ['a', 2],
    map: { in: 'side' },
    ['__proto__']: 'harmless'
  })
  expect({ ...span, attributes: {} }).toEqual({
    traceId,
    spanId,
    parentSpanId: '00f067aa0ba902b7',
    name: 'chat',
    kind: 'client',
    startTimeUnixNano: startNano,
    endTimeUnixNano: endNano,
    attributes: {},
    events: [{ name: 'exception', timeUnixNano: 5n, attributes: { 'exception.type': 'E' } }],
    links: [{ traceId, spanId, attributes: {} }],
    status: { code: 'error', message: 'broke' },
    resource: { 'service.name': 'shop' },
    scope: { name: 'lib', version: '1.2' }
  })
  expect(sink.requests).toMatchObject([
    { path: '/v1/traces', taken: true, headers: { 'content-type': 'application/x-protobuf' } }
  ])
})

it('reads metrics of protobuf, and gives each as it came last', async () => {
  await using sink = await startOtlpSink()
  const time = fixed64(3, endNano)
  const sum = (value: bigint): Buffer =>
    bytes(
      2,
      text(1, 'calls'),
      text(2, 'how many'),
      text(3, '{call}'),
      bytes(7, bytes(1, time, fixed64(6, value)), number(2, 2), number(3, 1))
    )
  const counts = bytes(6, fixed64(1, 1n).subarray(1), fixed64(1, 2n).subarray(1), fixed64(1, 0n).subarray(1))
  const bounds = bytes(7, double(1, 0.5).subarray(1), double(1, 1).subarray(1))
  const measured = bytes(
    1,
    time,
    fixed64(4, 3n),
    double(5, 1.75),
    counts,
    bounds,
    attribute(9, 'model', text(1, 'm')),
    double(11, 0.1),
    double(12, 1)
  )
  const histogram = bytes(2, text(1, 'duration'), bytes(9, measured, number(2, 1)))
  const gauge = bytes(2, text(1, 'open'), bytes(5, bytes(1, time, double(4, 2.5))))
  await send(sink, inScope(sum(1n), histogram, gauge), { path: '/v1/metrics' })
  await send(sink, inScope(sum(4n)), { path: '/v1/metrics' })
  expect([...sink.metrics.keys()].toSorted()).toEqual(['calls', 'duration', 'open'])
  expect(sink.metrics.get('calls')).toMatchObject({
    unit: '{call}',
    description: 'how many',
    kind: 'sum',
    monotonic: true,
    temporality: 'cumulative',
    points: [{ attributes: {}, value: 4 }],
    resource: { 'service.name': 'shop' },
    scope: { name: 'lib' }
  })
  expect(sink.metrics.get('duration')).toMatchObject({
    kind: 'histogram',
    monotonic: false,
    temporality: 'delta',
    points: [{ attributes: { model: 'm' }, count: 3, sum: 1.75, min: 0.1, max: 1, bounds: [0.5, 1], bucketCounts: [1, 2, 0] }]
  })
  expect(sink.metrics.get('open')).toMatchObject({ kind: 'gauge', points: [{ value: 2.5 }] })
})

test.skipIf(noExamples)('reads the published examples of OTLP/JSON', async () => {
  await using sink = await startOtlpSink()
  for (const signal of ['trace', 'metrics']) {
    const path = signal === 'trace' ? '/v1/traces' : '/v1/metrics'
    const response = await send(sink, readFileSync(new URL(`otlp-example-${signal}.json`, examples)), {
      path,
      'content-type': 'application/json'
    })
    expect([response.status, response.headers.get('content-type'), await response.json()]).toEqual([200, 'application/json', {}])
  }
  expect(sink.spans).toMatchObject([
    {
      traceId: '5b8efff798038103d269b633813fc60c',
      spanId: 'eee19b7ec3c1b174',
      parentSpanId: 'eee19b7ec3c1b173',
      kind: 'server',
      name: "I'm a server span",
      startTimeUnixNano: 1544712660000000000n,
      attributes: { 'my.span.attr': 'some value' },
      resource: { 'service.name': 'my.service' },
      scope: { name: 'my.library', version: '1.0.0' },
      status: { code: 'unset' }
    }
  ])
  const { metrics } = sink
  expect(metrics.get('my.counter')).toMatchObject({ kind: 'sum', monotonic: true, temporality: 'delta', points: [{ value: 5 }] })
  expect(metrics.get('my.gauge')).toMatchObject({
    kind: 'gauge',
    points: [{ value: 10, attributes: { 'my.gauge.attr': 'some value' } }]
  })
  expect(metrics.get('my.histogram')?.points[0]).toMatchObject({
    count: 2,
    sum: 2,
    bounds: [1],
    bucketCounts: [1, 1],
    min: 0,
    max: 2
  })
  expect(metrics.get('my.exponential.histogram')).toMatchObject({
    kind: 'exponential-histogram',
    points: [{ count: 3, sum: 10, max: 5 }]
  })
})

it('unpacks gzip, and counts the records of logs', async () => {
  await using sink = await startOtlpSink()
  const body = spanBytes('packed'.repeat(100))
  await send(sink, gzipSync(body), { 'content-encoding': 'gzip' })
  expect(sink.spans).toHaveLength(1)
  expect(sink.requests[0]).toMatchObject({ bytes: body.length, wireBytes: gzipSync(body).length })
  await send(sink, inScope(bytes(2, bytes(5, text(1, 'one'))), bytes(2)), { path: '/v1/logs' })
  expect(sink.logs).toBe(2)
})

it('finds a canary wherever it came: header, text, escaped JSON, raw bytes, taken or not', async () => {
  await using sink = await startOtlpSink({ behaviour: { status: 503 } })
  await send(sink, spanBytes('canary-ü-1', attribute(9, 'a', bytes(7, Buffer.from([0xfa, 0xce])))), { 'x-key': 'canary-2' })
  await send(sink, JSON.stringify({ resourceSpans: [], unread: { 'canary "3"': '\u0001' } }), {
    'content-type': 'application/json'
  })
  for (const canary of ['canary-ü-1', '\xfa\xce', 'canary-2', 'canary "3"', '/v1/traces']) expect(sink.text()).toContain(canary)
  expect(sink.text()).not.toContain('canary-4')
  expect(sink.spans).toEqual([])
})

describe('what no exporter should send gets a 4xx, and close throws it', () => {
  it.each([
    ['a body cut off', 400, spanBytes('x').subarray(0, 20), {}],
    ['broken JSON', 400, '{', { 'content-type': 'application/json' }],
    [
      'another JSON',
      400,
      '{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"zz"}]}]}]}',
      { 'content-type': 'application/json' }
    ],
    ['a span without ids', 400, inScope(bytes(2, text(5, 'x'))), {}],
    ['a kind that is none', 400, spanBytes('x', number(6, 9)), {}],
    ['a metric of no kind', 400, inScope(bytes(2, text(1, 'm'), bytes(11))), { path: '/v1/metrics' }],
    ['no gzip', 400, spanBytes('x'), { 'content-encoding': 'gzip' }],
    ['another packing', 415, spanBytes('x'), { 'content-encoding': 'br' }],
    ['another type', 415, spanBytes('x'), { 'content-type': 'text/plain' }],
    ['another path', 404, spanBytes('x'), { path: '/v1/trace' }],
    ['a body too long', 413, Buffer.alloc(20_000), {}],
    ['a body too long once unpacked', 413, gzipSync(Buffer.alloc(1_000_000)), { 'content-encoding': 'gzip' }]
  ])('%s', async (_, status, body, headers) => {
    const sink = await startOtlpSink({ maxBytes: 10_000 })
    const response = await send(sink, body, headers)
    expect([response.status, await response.text()]).toEqual([status, expect.stringMatching(/./)])
    expect(sink.requests).toMatchObject([{ taken: false }])
    await expect(sink.waitFor(({ spans }) => spans.length > 0, 1)).rejects.toThrow(
      /not within 1 ms; 1 requests, 0 spans.*malformed: POST/
    )
    await expect(sink.close()).rejects.toThrow(/^POST \/v1\//)
  })
})

describe('refuses a span that cannot be', () => {
  const attributes = (...list: object[]): object => ({ attributes: list })
  const aText = { stringValue: 'x' }
  it.each<[title: string, wrong: object, said?: string]>([
    ['ends before it starts', { endTimeUnixNano: `${startNano - 1n}` }],
    ['has no start', { startTimeUnixNano: undefined }],
    ['has no end', { endTimeUnixNano: '0' }],
    ['starts at a time below 0', { startTimeUnixNano: '-1' }, 'Span.startTimeUnixNano is no fixed64'],
    ['ends at a time above 2^64', { endTimeUnixNano: `${2n ** 64n}` }, 'Span.endTimeUnixNano is no fixed64'],
    ['is its own parent', { spanId, parentSpanId: spanId }],
    ['has no name', { name: '' }],
    ['has an event without a time', { events: [{ name: 'e' }] }],
    ['has an event without a name', { events: [{ timeUnixNano: `${startNano}` }] }],
    ['has an attribute without a key', attributes({ value: aText }), 'an attribute without a key'],
    [
      'has an attribute with two values',
      attributes({ key: 'a', value: { ...aText, intValue: '1' } }),
      'a value that is two: stringValue and intValue'
    ],
    [
      'has an attribute with two values within a list',
      attributes({ key: 'a', value: { arrayValue: { values: [{ ...aText, boolValue: false }] } } }),
      'a value that is two: stringValue and boolValue'
    ],
    ['has an attribute twice', attributes({ key: 'a', value: aText }, { key: 'a', value: aText }), 'a name twice among a, a'],
    [
      'has a whole number of more than 64 bits',
      attributes({ key: 'a', value: { intValue: `${2n ** 63n}` } }),
      'AnyValue.intValue is no int64'
    ],
    ['has half of a surrogate pair in its name', { name: 'x\ud83d' }, 'Span.name is no string'],
    ['has half of a surrogate pair in a key', attributes({ key: '\udc00x', value: aText }), 'KeyValue.key is no string'],
    [
      'has half of a surrogate pair in a text',
      attributes({ key: 'a', value: { stringValue: '\ud83d' } }),
      'AnyValue.stringValue is no string'
    ]
  ])('%s', async (title, wrong, said = title) => {
    const sink = await startOtlpSink()
    expect(
      (await sendJson(sink, spansJson(spanJson({ name: 'fine \u{1f600}', ...attributes({ key: 'a', value: aText }) })))).status
    ).toBe(200)
    expect((await sendJson(sink, spansJson(spanJson(), spanJson(wrong)))).status).toBe(400)
    expect(sink.spans).toHaveLength(1)
    await expect(sink.close()).rejects.toThrow(said)
  })

  it.each([
    ['has an attribute with two values', spanBytes('x', attribute(9, 'a', text(1, 'x'), number(2, 0)))],
    ['has a name that is no UTF-8', spanBytes('x', bytes(5, Buffer.from([0x61, 0xff])))],
    ['has half of a surrogate pair in its name', spanBytes('x', bytes(5, Buffer.from([0xed, 0xa0, 0x80])))]
  ])('in protobuf: %s', async (_, wrong) => {
    const sink = await startOtlpSink()
    expect((await send(sink, wrong)).status).toBe(400)
    await expect(sink.close()).rejects.toThrow(/^POST \/v1\/traces: /)
  })

  it('in JSON that is no UTF-8', async () => {
    const sink = await startOtlpSink()
    const body = Buffer.from(JSON.stringify(spansJson(spanJson({ name: 'x\u00ff' }))), 'latin1')
    expect((await send(sink, body, { 'content-type': 'application/json' })).status).toBe(400)
    await expect(sink.close()).rejects.toThrow(/^POST \/v1\/traces: /)
  })
})

describe('refuses a metric that cannot be', () => {
  const attributes = [
    { key: 'model', value: { stringValue: 'm' } },
    { key: 'kind', value: { intValue: '1' } }
  ]
  it.each<[title: string, wrong: object, said?: string]>([
    ['has no name', { name: '', sum: sumJson() }],
    ['is two kinds', { sum: sumJson(), histogram: histogramJson() }, 'is sum and histogram'],
    ['has an unspecified temporality', { sum: sumJson({ aggregationTemporality: 0 }) }],
    [
      'has buckets, and an unspecified temporality',
      { histogram: histogramJson({}, { aggregationTemporality: undefined }) },
      'has an unspecified temporality'
    ],
    [
      'only grows, and is below 0',
      { sum: sumJson({ isMonotonic: true, dataPoints: [{ ...point, asInt: '-1' }] }) },
      'only grows, and is -1'
    ],
    [
      'only grows, and is no number',
      { sum: sumJson({ isMonotonic: true, dataPoints: [{ ...point, asDouble: 'NaN' }] }) },
      'only grows, and is NaN'
    ],
    ['has a point without a value', { sum: sumJson({ dataPoints: [point] }) }, 'has a point with no value'],
    ['has a point with two values', { sum: sumJson({ dataPoints: [{ ...point, asInt: '1', asDouble: 1 }] }) }],
    ['has a point without a time', { gauge: { dataPoints: [{ asInt: '1' }] } }],
    ['has a point that ends before it starts', { sum: sumJson({ dataPoints: [{ ...point, timeUnixNano: '1', asInt: '1' }] }) }],
    [
      'has a point below time 0',
      { gauge: { dataPoints: [{ timeUnixNano: -1, asInt: '1' }] } },
      'NumberPoint.timeUnixNano is no fixed64'
    ],
    [
      'has two points of the same attributes',
      {
        gauge: { dataPoints: [attributes, attributes.toReversed()].map((list) => ({ ...point, asInt: '1', attributes: list })) }
      },
      'has two points of the attributes {"kind":1,"model":"m"}'
    ],
    [
      'has two points without attributes',
      { histogram: histogramJson({}, { dataPoints: [0, 1].map(() => ({ ...point, count: '0' })) }) },
      'has two points of the attributes {}'
    ],
    [
      'has buckets that do not add up to its count',
      { histogram: histogramJson({ count: '4' }) },
      'has 3 in its buckets and a count of 4'
    ],
    ['has as many buckets as bounds', { histogram: histogramJson({ bucketCounts: ['1', '2'] }) }, 'has 2 buckets for 2 bounds'],
    ['has bounds without buckets', { histogram: histogramJson({ bucketCounts: [] }) }, 'has 0 buckets for 2 bounds'],
    ['has falling bounds', { histogram: histogramJson({ explicitBounds: [1, 0.5] }) }, 'has bounds that do not rise'],
    ['has equal bounds', { histogram: histogramJson({ explicitBounds: [1, 1] }) }, 'has bounds that do not rise'],
    ['has an infinite bound', { histogram: histogramJson({ explicitBounds: [0.5, 'Infinity'] }) }, 'has bounds that do not rise'],
    [
      'has a bound that is no number',
      { histogram: histogramJson({ explicitBounds: [0.5, 'NaN'] }) },
      'has bounds that do not rise'
    ],
    [
      'has a count below 0',
      { histogram: histogramJson({ count: '-3', bucketCounts: [], explicitBounds: [] }) },
      'HistogramPoint.count is no fixed64'
    ],
    [
      'has a bucket below 0',
      { histogram: histogramJson({ bucketCounts: ['-1', '4', '0'] }) },
      'HistogramPoint.bucketCounts is no fixed64'
    ],
    ['has a min above its max', { histogram: histogramJson({ min: 1, max: 0.5 }) }, 'has a min of 1 and a max of 0.5']
  ])('%s', async (title, wrong, said = title) => {
    const sink = await startOtlpSink()
    const twoSeries = [
      { ...point, asInt: '-1' },
      { ...point, asInt: '-1', attributes }
    ]
    const right = [
      { sum: sumJson({ dataPoints: twoSeries }) },
      { histogram: histogramJson({ min: 0.1, max: 1 }) },
      { histogram: histogramJson({ bucketCounts: [], explicitBounds: [] }) }
    ]
    for (const metric of right) expect((await sendJson(sink, metricsJson(metric), '/v1/metrics')).status).toBe(200)
    expect((await sendJson(sink, metricsJson(wrong), '/v1/metrics')).status).toBe(400)
    await expect(sink.close()).rejects.toThrow(said)
  })
})

describe('a span that is sent twice', () => {
  it('is refused within one request', async () => {
    const sink = await startOtlpSink()
    const span = spanJson()
    expect((await sendJson(sink, spansJson(span, span))).status).toBe(400)
    expect(sink.spans).toEqual([])
    await expect(sink.close()).rejects.toThrow(/^POST \/v1\/traces: the span [\da-f]{16} \("chat"\) was sent twice/)
  })

  it('is refused over requests, with all that came beside it', async () => {
    const sink = await startOtlpSink()
    const span = spanJson()
    expect((await sendJson(sink, spansJson(span))).status).toBe(200)
    expect((await sendJson(sink, spansJson(spanJson()))).status).toBe(200)
    const other = spanJson()
    expect((await sendJson(sink, spansJson(other, span))).status).toBe(400)
    expect(sink.spans).toHaveLength(2)
    // The other one did not come in.
    expect((await sendJson(sink, spansJson(other))).status).toBe(200)
    await expect(sink.close()).rejects.toThrow('was sent twice')
  })

  it('is refused although what came first was dropped for its size', async () => {
    const sink = await startOtlpSink({ maxBytes: 2000 })
    const span = spanJson()
    await sendJson(sink, spansJson(span))
    while (sink.dropped === 0) await sendJson(sink, spansJson(spanJson()))
    expect((await sendJson(sink, spansJson(span))).status).toBe(400)
    await expect(sink.close()).rejects.toThrow('was sent twice')
  })

  it('is no other span for being in another trace with the same id', async () => {
    await using sink = await startOtlpSink()
    await sendJson(sink, spansJson(spanJson({ spanId }), spanJson({ spanId, traceId: traceId.toUpperCase().replace('0', '1') })))
    expect(sink.spans).toHaveLength(2)
  })

  it.each([{ status: 503 }, 'stall', 'reset'] as const)(
    'is taken when the sink did not take it before: %j',
    async (behaviour) => {
      const sink = await startOtlpSink({ behaviour })
      const span = spanJson()
      const first = sendJson(sink, spansJson(span)).catch((error: Error) => error)
      await sink.waitFor(({ requests }) => requests.length === 1)
      await sink.behave('take')
      expect((await sendJson(sink, spansJson(span))).status).toBe(200)
      await sink.behave({ status: 503 })
      expect((await sendJson(sink, spansJson(span))).status).toBe(400)
      expect(sink.spans).toHaveLength(1)
      await expect(sink.close()).rejects.toThrow('was sent twice')
      await first
    }
  )
})

it('drops the oldest requests with what they carried, and then refuses to be searched', async () => {
  await using sink = await startOtlpSink({ maxBytes: 20_000 })
  for (let i = 0; i < 30; i++) await send(sink, spanBytes(`span ${i}`, attribute(9, 'long', text(1, 'x'.repeat(1000)))))
  const left = sink.spans.length
  expect(left).toBeGreaterThan(5)
  expect(sink.dropped).toBe(30 - left)
  expect(sink.requests).toHaveLength(left)
  expect(sink.spans.at(-1)?.name).toBe('span 29')
  expect(() => sink.text()).toThrow(/dropped: give the sink more maxBytes/)
})

it('answers late, not at all, with an error, with a reset, or does not listen, as it is told while it runs', async () => {
  const probe = probeLeaks()
  const sink = await startOtlpSink({ behaviour: { delayMs: 100 } })
  const start = performance.now()
  const slow = send(sink, spanBytes('slow'))
  await sink.waitFor(({ spans }) => spans.length === 1)
  expect((await slow).status).toBe(200)
  expect(performance.now() - start).toBeGreaterThan(90)

  await sink.behave({ status: 503, retryAfter: 7 })
  const refused = await send(sink, spanBytes('refused'))
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '7'])

  await sink.behave('stall')
  const stalled = send(sink, spanBytes('stalled')).then(String, (error: Error) => error)
  await sink.waitFor(({ requests }) => requests.length === 3)

  await sink.behave('reset')
  await expect(send(sink, spanBytes('reset'))).rejects.toMatchObject({
    cause: { code: expect.stringMatching(/ECONNRESET|UND_ERR_SOCKET/) }
  })

  await sink.behave('refuse')
  expect(await stalled).toBeInstanceOf(Error)
  await expect(send(sink, spanBytes('nobody'))).rejects.toMatchObject({ cause: { code: 'ECONNREFUSED' } })

  await sink.behave('take')
  expect((await send(sink, spanBytes('back'))).status).toBe(200)
  expect(sink.requests.map(({ taken }) => taken)).toEqual([true, false, false, false, true])
  expect(sink.spans.map(({ name }) => name)).toEqual(['slow', 'back'])
  await sink.close()
  await sink.close()
  await probe.check()
})

it('can be a port where nobody listens from the start', async () => {
  await using sink = await startOtlpSink({ behaviour: 'refuse' })
  await expect(send(sink, '')).rejects.toMatchObject({ cause: { code: 'ECONNREFUSED' } })
})

it('leaves no timer when the client or the sink goes while an answer is delayed', async () => {
  const probe = probeLeaks()
  const sink = await startOtlpSink({ behaviour: { delayMs: 60_000 } })
  const impatient = request(`${sink.url}/v1/traces`, { method: 'POST', headers: { 'content-type': 'application/x-protobuf' } })
  impatient.on('error', () => {})
  impatient.end(spanBytes('impatient'))
  await sink.waitFor(({ spans }) => spans.length === 1)
  impatient.destroy()
  const patient = send(sink, spanBytes('patient')).catch((error: Error) => error)
  await sink.waitFor(({ spans }) => spans.length === 2)
  await sink.close()
  expect(await patient).toBeInstanceOf(Error)
  await probe.check()
})

it('takes a client that leaves in the middle of its body for one that never came', async () => {
  await using sink = await startOtlpSink()
  const socket = connect(Number(new URL(sink.url).port), '127.0.0.1')
  socket.write('POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf')
  await once(socket, 'connect')
  socket.resetAndDestroy()
  expect((await send(sink, spanBytes('whole'))).status).toBe(200)
  expect(sink.requests).toHaveLength(1)
})

it('stops waiting when it is closed, and gives what the predicate throws', async () => {
  const sink = await startOtlpSink()
  const waiting = sink.waitFor(() => false).catch(String)
  await expect(sink.waitFor(() => expect(1).toBe(2) as never)).rejects.toThrow('expected 1 to be 2')
  await sink.close()
  expect(await waiting).toContain('the sink was closed; 0 requests')
})

it.each([
  [{ behaviour: 'slow' }, /behaviour must be/],
  [{ behaviour: { delayMs: -1 } }, /behaviour must be/],
  [{ behaviour: { status: 200 } }, /behaviour must be/],
  [{ maxBytes: 0 }, /maxBytes must be/]
])('refuses %j', async (options, message) => {
  await expect(startOtlpSink(options as never)).rejects.toThrow(message)
})
