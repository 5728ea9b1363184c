import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ChatRequest, collect } from '@millrace/core'
import { startOtlpSink } from '@millrace/testkit'
import { context, logs, metrics, propagation, SpanStatusCode, trace } from '@opentelemetry/api'
import { NodeSDK } from '@opentelemetry/sdk-node'
import { AlwaysOnSampler, BatchSpanProcessor, InMemorySpanExporter, TracerProvider } from '@opentelemetry/sdk-trace'
import { afterEach, expect, test, vi } from 'vitest'
import { createTelemetry } from '../src/index.ts'
import { createTailSampling, type NodeTelemetry, type NodeTelemetryOptions, startTelemetry } from '../src/node.ts'
import { fails, provides } from './harness.ts'
import { run } from './run-node.ts'

const request: ChatRequest = { model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hi' }] }

/** Calls that nobody waits for in a test, one after the other. */
async function call({ layer }: NodeTelemetry, times = 1): Promise<void> {
  const provider = layer(provides())
  for (let at = 0; at < times; at++) await collect(provider(request, {}))
}

/** Started with this environment, and nothing else of OTEL_*. */
function start(env: Readonly<Record<string, string>>, options: NodeTelemetryOptions = {}): Promise<NodeTelemetry> {
  for (const name of Object.keys(process.env)) if (name.startsWith('OTEL_')) vi.stubEnv(name, undefined)
  for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value)
  return startTelemetry(options)
}

afterEach(() => {
  vi.unstubAllEnvs()
})

const isOff = (): boolean => !trace.getTracer('test').startSpan('probe').isRecording()

test('spans and metrics reach the collector of the environment, with its headers and nothing of the machine', async () => {
  await using sink = await startOtlpSink()
  const telemetry = await start({
    OTEL_EXPORTER_OTLP_ENDPOINT: sink.url,
    OTEL_EXPORTER_OTLP_HEADERS: 'x-tenant=acme',
    OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment.name=test',
    OTEL_SERVICE_NAME: 'gateway'
  })
  await call(telemetry, 3)
  await telemetry.close()
  expect(sink.spans.map(({ name }) => name)).toEqual(['chat gpt-5.6', 'chat gpt-5.6', 'chat gpt-5.6'])
  expect(sink.metrics.get('gen_ai.client.operation.duration')?.points).toMatchObject([{ count: 3 }])
  expect(sink.requests.map(({ headers }) => headers['x-tenant'])).toEqual(['acme', 'acme'])
  expect(sink.requests.map(({ headers }) => headers['content-type'])).toEqual([
    'application/x-protobuf',
    'application/x-protobuf'
  ])
  expect(sink.spans[0]?.resource).toEqual({
    'deployment.environment.name': 'test',
    'service.instance.id': expect.any(String),
    'service.name': 'gateway',
    'telemetry.sdk.language': 'nodejs',
    'telemetry.sdk.name': 'opentelemetry',
    'telemetry.sdk.version': expect.any(String)
  })
  expect(telemetry.stats()).toEqual({
    open: 0,
    dropped: 0,
    failures: 0,
    spans: { ended: 3, sampledOut: 0, queued: 0, exported: 3, dropped: 0, failed: 0 }
  })
})

test('http/json, gzip, a signal of its own, a name in code: each is heeded', async () => {
  await using sink = await startOtlpSink()
  const telemetry = await start(
    {
      OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${sink.url}/v1/traces`,
      OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json',
      OTEL_EXPORTER_OTLP_COMPRESSION: 'gzip',
      OTEL_SERVICE_NAME: 'from the environment'
    },
    { serviceName: 'from code' }
  )
  await call(telemetry)
  await telemetry.close()
  expect(sink.requests.map(({ path, headers }) => [path, headers['content-type'], headers['content-encoding']])).toEqual([
    ['/v1/traces', 'application/json', 'gzip']
  ])
  expect(sink.spans[0]?.resource['service.name']).toBe('from code')
})

test('without an endpoint, with none, or with the SDK disabled, nothing is started and nothing fails', async () => {
  for (const env of [
    {},
    { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1', OTEL_TRACES_EXPORTER: 'none', OTEL_METRICS_EXPORTER: 'none' },
    { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1', OTEL_METRICS_EXPORTER: 'prometheus', OTEL_SDK_DISABLED: 'true' }
  ]) {
    await using telemetry = await start(env)
    expect(isOff()).toBe(true)
    await call(telemetry)
    expect(telemetry.stats().spans.ended).toBe(0)
    if ('OTEL_SDK_DISABLED' in env) expect((await telemetry.prometheus()).body).toBe('')
  }
})

test('the queue, the batches and the intervals are those of the environment', async () => {
  await using sink = await startOtlpSink()
  await using telemetry = await start({
    OTEL_EXPORTER_OTLP_ENDPOINT: sink.url,
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE: '4',
    OTEL_BSP_SCHEDULE_DELAY: '50',
    OTEL_METRIC_EXPORT_INTERVAL: '100',
    OTEL_BSP_MAX_QUEUE_SIZE: '10'
  })
  await call(telemetry, 10)
  await sink.waitFor(
    ({ spans, requests }) => spans.length === 10 && requests.filter(({ path }) => path === '/v1/metrics').length > 1
  )
  await sink.behave('stall')
  await call(telemetry, 20)
  expect(telemetry.stats().spans).toEqual({ ended: 30, sampledOut: 0, queued: 10, exported: 10, dropped: 10, failed: 0 })
  await sink.behave('refuse')
})

test('the sampling of the environment decides, and code decides over it', async () => {
  const env = { OTEL_TRACES_SAMPLER: 'parentbased_traceidratio', OTEL_TRACES_SAMPLER_ARG: '0.5' }
  await using sink = await startOtlpSink()
  const expected = [
    [{ ...env, OTEL_EXPORTER_OTLP_ENDPOINT: sink.url }, {}, [40, 160]],
    [{ ...env, OTEL_EXPORTER_OTLP_ENDPOINT: sink.url }, { sampling: { ratio: 0 } }, [200, 200]],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: sink.url }, {}, [0, 0]]
  ] as const
  for (const [variables, options, [least = 0, most = 0]] of expected) {
    const telemetry = await start(variables, options)
    await call(telemetry, 200)
    await telemetry.close()
    const { ended, sampledOut, exported } = telemetry.stats().spans
    expect(ended).toBe(200)
    expect(sampledOut + exported).toBe(200)
    expect(sampledOut).toBeGreaterThanOrEqual(least)
    expect(sampledOut).toBeLessThanOrEqual(most)
  }
  const silent = await start({ OTEL_EXPORTER_OTLP_ENDPOINT: sink.url, OTEL_TRACES_SAMPLER: 'always_off' })
  await call(silent, 5)
  await silent.close()
  expect(silent.stats().spans.ended).toBe(0)
})

test('of the calls that the ratio lets go, those that failed are exported with all their spans', async () => {
  await using sink = await startOtlpSink()
  const telemetry = await start({ OTEL_EXPORTER_OTLP_ENDPOINT: sink.url }, { sampling: { ratio: 0 } })
  await call(telemetry, 5)
  await collect(telemetry.layer(fails(new Error('no')))(request, {})).catch(() => {})
  await telemetry.close()
  expect(sink.spans.map(({ attributes }) => attributes['error.type'])).toEqual(['_OTHER'])
  expect(telemetry.stats().spans).toMatchObject({ ended: 6, sampledOut: 5, exported: 1 })
})

test('what the environment says wrongly is told once and taken as unset; gRPC is refused', async () => {
  await using sink = await startOtlpSink()
  const told: string[] = []
  const telemetry = await start(
    {
      OTEL_EXPORTER_OTLP_ENDPOINT: sink.url,
      OTEL_EXPORTER_OTLP_PROTOCOL: 'carrier/pigeon',
      OTEL_EXPORTER_OTLP_TIMEOUT: '-5',
      OTEL_EXPORTER_OTLP_TRACES_TIMEOUT: 'abc',
      OTEL_EXPORTER_OTLP_HEADERS: 'authorization: Bearer sk-canary,x-tenant=acme',
      OTEL_EXPORTER_OTLP_METRICS_HEADERS: 'x-tenant=a=b, ,',
      OTEL_EXPORTER_OTLP_COMPRESSION: 'brotli',
      OTEL_EXPORTER_OTLP_TRACES_COMPRESSION: 'gzip',
      OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: 'collector',
      OTEL_METRICS_EXPORTER: 'none',
      OTEL_TRACES_EXPORTER: 'otlp,zipkin',
      OTEL_BSP_MAX_QUEUE_SIZE: '100.5',
      OTEL_BSP_SCHEDULE_DELAY: '2147483648',
      OTEL_SDK_DISABLED: '1',
      OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT: 'yes',
      OTEL_RESOURCE_ATTRIBUTES: 'team=a,b',
      OTEL_TRACES_SAMPLER: 'traceidratio',
      OTEL_TRACES_SAMPLER_ARG: '7'
    },
    { onError: ({ message }) => told.push(message) }
  )
  await call(telemetry)
  await telemetry.close()
  expect(sink.spans).toHaveLength(1)
  expect(told).toEqual([
    'OTEL_EXPORTER_OTLP_METRICS_ENDPOINT must begin with http:// or https://; the SDK takes http://localhost:4318',
    'OTEL_EXPORTER_OTLP_TIMEOUT must be a number of milliseconds above 0; it is taken as unset',
    'OTEL_EXPORTER_OTLP_HEADERS must be name=value,name=value; what has no "=" is left out',
    'OTEL_EXPORTER_OTLP_COMPRESSION knows none and gzip; it is taken as unset',
    'OTEL_EXPORTER_OTLP_TRACES_TIMEOUT must be a number of milliseconds above 0; it is taken as unset',
    'OTEL_RESOURCE_ATTRIBUTES must be name=value,name=value with other "," and "=" percent-encoded; none of it is used',
    'OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT knows true, false, 1, 0, span_only, event_only, span_and_event, no_content; no content is captured',
    'OTEL_TRACES_EXPORTER knows otlp, console and none; others are left out',
    'OTEL_BSP_MAX_QUEUE_SIZE must be a whole number from 1 to 1000000; 2048 is used',
    'OTEL_SDK_DISABLED knows true, false; it is not disabled',
    'OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1; 1 is used',
    'OTEL_BSP_SCHEDULE_DELAY must be a number from 1 to 2147483647; 5000 is used',
    'OTEL_EXPORTER_OTLP_PROTOCOL knows http/protobuf and http/json; http/protobuf is used'
  ])
  await expect(start({ OTEL_EXPORTER_OTLP_ENDPOINT: sink.url, OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' })).rejects.toThrow(
    'OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not supported: use http/protobuf, to the HTTP port of the collector (4318)'
  )
  expect(isOff()).toBe(true)
})

test('prometheus() gives the text, refuses where it was not asked for, and is closed afterwards', async () => {
  const telemetry = await start({}, { metrics: ['prometheus'] })
  await call(telemetry, 2)
  const { contentType, body } = await telemetry.prometheus()
  expect(contentType).toBe('text/plain; version=0.0.4; charset=utf-8')
  expect(body).toMatch(/^gen_ai_client_operation_duration_count\{.*gen_ai_request_model="gpt-5.6".*\} 2$/m)
  await telemetry.close()
  await expect(telemetry.prometheus()).rejects.toMatchObject({
    code: 'closed',
    message: expect.stringContaining('`await using` closes')
  })
  await using other = await start({}, { metrics: [] })
  await expect(other.prometheus()).rejects.toThrow(TypeError)
})

test('who asks for the text while one is made gets the same; later ones are made anew', async () => {
  await using telemetry = await start({}, { metrics: ['prometheus'] })
  let collections = 0
  metrics
    .getMeter('test')
    .createObservableGauge('asked')
    .addCallback((result) => result.observe(++collections))
  const bodies = await Promise.all(Array.from({ length: 10 }, async () => (await telemetry.prometheus()).body))
  expect([new Set(bodies).size, collections]).toEqual([1, 1])
  await telemetry.prometheus()
  expect(collections).toBe(2)
})

test('a callback that hangs is left out of the text after 5 s, counted, and asked again with the next', {
  timeout: 20_000
}, async () => {
  await using telemetry = await start({}, { metrics: ['prometheus'] })
  let hangs = true
  metrics
    .getMeter('test')
    .createObservableGauge('stuck')
    .addCallback((result) => (hangs ? new Promise<void>(() => {}) : result.observe(7)))
  await call(telemetry)
  const started = performance.now()
  const { body } = await telemetry.prometheus()
  expect(performance.now() - started).toBeLessThan(9000)
  expect(body).toMatch(/^gen_ai_client_operation_duration_count/m)
  expect(telemetry.stats().failures).toBe(1)
  hangs = false
  expect((await telemetry.prometheus()).body).toMatch(/^stuck\b.* 7$/m)
})

test('a root that fails is exported though what it held fills the queue', async () => {
  await using sink = await startOtlpSink()
  const telemetry = await start(
    { OTEL_EXPORTER_OTLP_ENDPOINT: sink.url, OTEL_METRICS_EXPORTER: 'none' },
    { sampling: { ratio: 0 } }
  )
  const tracer = trace.getTracer('test')
  const root = tracer.startSpan('root')
  for (let at = 0; at < 3000; at++) tracer.startSpan('child', {}, trace.setSpan(context.active(), root)).end()
  root.setStatus({ code: SpanStatusCode.ERROR }).end()
  expect(telemetry.stats().spans).toMatchObject({ ended: 3001, dropped: 0 })
  await telemetry.close()
  expect(sink.spans.filter(({ name }) => name === 'root')).toHaveLength(1)
})

test('three thousand series of a metric of ours are told apart', async () => {
  await using telemetry = await start({}, { metrics: ['prometheus'], maxModels: 5000 })
  for (let model = 0; model < 3000; model++)
    await collect(telemetry.layer(provides())({ ...request, model: `model-${model}` }, {}))
  const { body } = await telemetry.prometheus()
  expect(body.match(/^gen_ai_client_operation_duration_count\{.*gen_ai_request_model="model-\d+"/gm)).toHaveLength(3000)
  expect(body).not.toMatch(/^gen_ai_client_operation_duration.*otel_metric_overflow/m)
})

test('what became of the spans is a metric too, so that a collector that is gone shows where metrics are scraped', async () => {
  await using sink = await startOtlpSink()
  const telemetry = await start(
    { OTEL_EXPORTER_OTLP_ENDPOINT: sink.url, OTEL_BSP_SCHEDULE_DELAY: '10' },
    { metrics: ['prometheus'] }
  )
  const series = async (name: string): Promise<unknown> => {
    const { body } = await telemetry.prometheus()
    return Object.fromEntries(
      Array.from(body.matchAll(/^(\w+)\{(.*)\} (\d+)$/gm), ([, found, labels = '', value]) => {
        return [`${found} ${/fate="([\w-]+)"/.exec(labels)?.[1] ?? ''}`, Number(value)] as const
      }).filter(([key]) => key.startsWith(name))
    )
  }
  await call(telemetry, 2)
  await expect.poll(() => telemetry.stats().spans.exported).toBe(2)
  expect(await series('millrace_telemetry_')).toMatchObject({
    'millrace_telemetry_spans_total exported': 2,
    'millrace_telemetry_spans_total dropped': 0,
    'millrace_telemetry_spans_total sampled-out': 0,
    'millrace_telemetry_export_failures_total ': 0
  })
  await sink.behave({ status: 400 })
  await call(telemetry, 3)
  await expect.poll(() => telemetry.stats().spans.dropped).toBe(3)
  expect(await series('millrace_telemetry_')).toMatchObject({
    'millrace_telemetry_spans_total exported': 2,
    'millrace_telemetry_spans_total dropped': 3,
    'millrace_telemetry_export_failures_total ': telemetry.stats().spans.failed
  })
  await telemetry.close()
})

test('while one runs another is refused; after close it takes its place', async () => {
  await using sink = await startOtlpSink()
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: sink.url }
  for (let round = 1; round <= 2; round++) {
    const telemetry = await start(env)
    await expect(start(env)).rejects.toThrow('OpenTelemetry runs in this process already')
    await call(telemetry)
    await telemetry.close()
    await telemetry.close()
    expect(sink.spans).toHaveLength(round)
    expect([isOff(), propagation.fields()]).toEqual([true, []])
  }
})

test('a second one that only writes logs is refused too', async () => {
  const env = { OTEL_LOGS_EXPORTER: 'console' }
  await using first = await start(env)
  await expect(start(env)).rejects.toThrow('OpenTelemetry runs in this process already')
  expect(first.stats().failures).toBe(0)
})

test('beside a telemetry that listens on the global providers it is refused, and leaves nothing running', async () => {
  await using sink = await startOtlpSink()
  await using listening = createTelemetry()
  await expect(start({ OTEL_EXPORTER_OTLP_ENDPOINT: sink.url })).rejects.toThrow(TypeError)
  expect([isOff(), propagation.fields(), listening.stats().open]).toEqual([true, [], 0])
})

test('another SDK of the process is neither joined nor torn down', async () => {
  const theirs = new TracerProvider()
  trace.setGlobalTracerProvider(theirs)
  try {
    await expect(start({}, { metrics: ['prometheus'] })).rejects.toThrow(/join it with createTelemetry/)
    expect(isOff()).toBe(false)
  } finally {
    trace.disable()
    await theirs.shutdown()
  }
  expect(metrics.getMeterProvider().constructor.name).toMatch(/Noop/)
})

test('a wrong option is refused with the cure, and leaves nothing running', async () => {
  const wrong: readonly (readonly [unknown, RegExp])[] = [
    [{ trace: [] }, /startTelemetry has no option "trace"; it has serviceName, traces/],
    [{ tracerProvider: {} }, /startTelemetry has no option "tracerProvider"/],
    [{ traces: ['jaeger'] }, /traces must be a list of 'otlp', 'console'; \[\] for none/],
    [{ metrics: 'otlp' }, /metrics must be a list/],
    [{ sampling: { ratio: 2 } }, /ratio must be a number from 0 to 1/],
    [{ sampling: { rate: 1 } }, /sampling has no option "rate"/],
    [{ sampling: { ratio: '0.5' } }, /ratio and slowMs must be numbers/],
    [{ sampling: { ratio: null } }, /ratio and slowMs must be numbers/],
    [{ sampling: 0.1 }, /write \{ ratio: 0.1 \}/],
    [{ sampling: null }, /sampling takes an object of options, not null/],
    [{ serviceName: null }, /serviceName must be a text/],
    [{ shutdownMs: -1 }, /shutdownMs/],
    [{ shutdownMs: null }, /shutdownMs/],
    [{ shutdownMs: '5' }, /shutdownMs/],
    [{ onError: 'console' }, /onError/],
    [{ metrics: ['prometheus'], maxOpenCalls: 0 }, /maxOpenCalls/]
  ]
  for (const [options, message] of wrong) await expect(start({}, options as NodeTelemetryOptions)).rejects.toThrow(message)
  await using telemetry = await start({}, { metrics: ['prometheus'] })
  await telemetry.prometheus()
})

interface Copy extends AsyncDisposable {
  readonly app: string
}

/** A copy of this package with its imports but without the SDK, removed with its block. */
async function copied(): Promise<Copy> {
  const app = await mkdtemp(join(tmpdir(), 'millrace-no-sdk-'))
  const here = new URL('..', import.meta.url).pathname
  await cp(join(here, 'src'), join(app, 'src'), { recursive: true })
  await mkdir(join(app, 'node_modules/@millrace'), { recursive: true })
  await mkdir(join(app, 'node_modules/@opentelemetry'))
  await symlink(join(here, '../core'), join(app, 'node_modules/@millrace/core'))
  await symlink(join(here, 'node_modules/@opentelemetry/api'), join(app, 'node_modules/@opentelemetry/api'))
  return { app, [Symbol.asyncDispose]: () => rm(app, { recursive: true }) }
}

/** Starts the copy without and with an exporter, and writes what came of it. */
const starting = (app: string): string => `
import { startTelemetry } from ${JSON.stringify(join(app, 'src/node.ts'))}
await (await startTelemetry()).close()
await startTelemetry({ traces: ['otlp'] }).then((telemetry) => telemetry.close()).then(() => console.log('started'), (error) => console.log(String(error)))
`

test('an SDK that is missing or too old is refused with what to install, and not missed where nothing is exported', async () => {
  await using copy = await copied()
  const { output } = await run(starting(copy.app))
  expect(output).toBe('TypeError: startTelemetry needs @opentelemetry/sdk-node: npm install @opentelemetry/sdk-node\n')
  const old = join(copy.app, 'node_modules/@opentelemetry/sdk-node')
  await mkdir(old)
  await writeFile(join(old, 'package.json'), '{ "version": "0.218.0", "main": "index.js" }')
  await writeFile(join(old, 'index.js'), '')
  expect((await run(starting(copy.app))).output).toBe(
    'TypeError: startTelemetry needs @opentelemetry/sdk-node 0.301 or later; found 0.218.0: npm install @opentelemetry/sdk-node@latest\n'
  )
})

test('where a bundler has emptied import.meta, the SDK is found from the working directory', async () => {
  await using copy = await copied()
  const path = join(copy.app, 'src/node-sdk.ts')
  const source = await readFile(path, 'utf8')
  expect(source).toContain('import.meta')
  await writeFile(path, source.replaceAll('import.meta', '({})'))
  expect((await run(starting(copy.app))).output).toBe('started\n')
})

test('nothing of the SDK is loaded by an import', async () => {
  const { output } = await run(
    `import '@millrace/telemetry/node'
     import { createRequire } from 'node:module'
     const loaded = Object.keys(createRequire(import.meta.url).cache).filter((path) => path.includes('opentelemetry'))
     console.log(loaded.length)`
  )
  expect(output).toBe('0\n')
})

const consoleProgram = `
import { startTelemetry } from '@millrace/telemetry/node'
import { collect } from '@millrace/core'
const telemetry = await startTelemetry()
await collect(telemetry.layer(async function* () {
  yield { type: 'start', provider: 'openai', model: 'gpt-5.6' }
  yield { type: 'finish', reason: 'stop' }
})({ model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hi' }] }, {}))
await telemetry.close()
console.log(JSON.stringify(telemetry.stats().spans))
`

test('createTailSampling fits into an SDK of your own', async () => {
  vi.stubEnv('OTEL_LOGS_EXPORTER', 'none')
  const batch = new BatchSpanProcessor({ exporter: new InMemorySpanExporter() })
  const sampling = createTailSampling(batch, { ratio: 0 })
  const sdk = new NodeSDK({
    autoDetectResources: false,
    sampler: new AlwaysOnSampler(),
    spanProcessors: [sampling],
    metricReaders: []
  })
  sdk.start()
  trace.getTracer('test').startSpan('quick').end()
  await sdk.shutdown()
  for (const api of [trace, propagation, context, logs]) api.disable()
  expect(sampling.stats()).toEqual({ ended: 1, held: 0, sampledOut: 1 })
})

test('a collector beside the console gets what the console shows', async () => {
  await using sink = await startOtlpSink()
  const { output } = await run(consoleProgram, { OTEL_EXPORTER_OTLP_ENDPOINT: sink.url, OTEL_TRACES_EXPORTER: 'otlp,console' })
  expect(output).toContain("name: 'chat gpt-5.6'")
  expect(output).toContain('{"ended":1,"sampledOut":0,"queued":0,"exported":1,"dropped":0,"failed":0}')
  expect(sink.spans.map(({ name }) => name)).toEqual(['chat gpt-5.6'])
})

test('console exporters write spans and metrics', async () => {
  const { output } = await run(consoleProgram, { OTEL_TRACES_EXPORTER: 'console', OTEL_METRICS_EXPORTER: 'console' })
  expect(output).toContain("name: 'chat gpt-5.6'")
  expect(output).toContain("name: 'gen_ai.client.operation.duration'")
  expect(output).toContain('{"ended":1,"sampledOut":0,"queued":0,"exported":1,"dropped":0,"failed":0}')
})
