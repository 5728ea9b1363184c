import { type ChatRequest, channels, collect, MillraceError, type Provider, sleep } from '@millrace/core'
import { type MeterProvider, propagation, type TextMapPropagator, type TracerProvider, trace } from '@opentelemetry/api'
import { TracerProvider as SdkTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace'
import { expect, test } from 'vitest'
import { createTelemetry, type TelemetryOptions } from '../src/index.ts'
import { answer, createHarness, fails, goesOn, provides } from './harness.ts'

const request: ChatRequest = { model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hi' }] }

/** As the W3C propagator writes it. */
const w3c: TextMapPropagator = {
  inject(context, carrier, setter) {
    const span = trace.getSpanContext(context)
    if (span !== undefined) setter.set(carrier, 'traceparent', `00-${span.traceId}-${span.spanId}-01`)
    if (propagation.getBaggage(context) !== undefined) setter.set(carrier, 'baggage', 'leaked')
  },
  extract: (context) => context,
  fields: () => ['traceparent']
}

test('traceHeaders names the span of the attempt, of the newest attempt, of the call, or nothing', async () => {
  await using harness = createHarness()
  const { layer, traceHeaders } = harness.telemetry
  const seen: Record<string, string>[] = []
  const owner = {}
  const origin = 'https://api.example.com'
  const provider: Provider = async function* (_request, { callId = '' }) {
    await sleep(1)
    seen.push(traceHeaders(callId, 1))
    channels.attemptStart.publish({ owner, callId, attempt: 1, method: 'POST', origin })
    seen.push(traceHeaders(callId, 1), traceHeaders(callId), traceHeaders(callId, 2))
    channels.attemptEnd.publish({ owner, callId, attempt: 1, origin, elapsedMs: 1, status: 200 })
    yield* answer
  }
  expect(await collect(layer(provider)(request, {})).then(() => seen.splice(0))).toEqual([{}, {}, {}, {}])
  propagation.setGlobalPropagator(w3c)
  try {
    await collect(layer(provider)(request, {}))
    expect(traceHeaders('unknown')).toEqual({})
  } finally {
    propagation.disable()
  }
  const [attempt, call] = harness.spans().slice(2)
  expect(seen).toEqual(
    [call, attempt, attempt, call].map((span) => {
      const { traceId, spanId } = span?.spanContext() ?? { traceId: '', spanId: '' }
      return { traceparent: `00-${traceId}-${spanId}-01` }
    })
  )
})

/** Reads and writes `traceparent` as W3C has it. */
const reading: TextMapPropagator = {
  ...w3c,
  extract(context, carrier, getter) {
    const [value] = [getter.get(carrier, 'traceparent') ?? []].flat()
    const [, traceId = '', spanId = '', flags = ''] = (value ?? '').split('-')
    if (traceId === '') return context
    return trace.setSpanContext(context, { traceId, spanId, traceFlags: Number(flags), isRemote: true })
  }
}

test('the trace of an incoming request is the parent of the call, from headers of any kind', async () => {
  await using harness = createHarness()
  const traceId = '0af7651916cd43dd8448eb211c80319c'
  const traceparent = `00-${traceId}-b7ad6b7169203331-01`
  const watched = harness.telemetry.layer(provides())
  propagation.setGlobalPropagator(reading)
  try {
    const given = [{ traceparent }, { Traceparent: [traceparent] }, new Headers({ traceparent }), { get: () => traceparent }]
    for (const parent of given) await collect(watched(request, { telemetry: { parent: parent as Headers } }))
    await collect(watched(request, { telemetry: { parent: {} } }))
    expect(harness.telemetry.stats().failures).toBe(0)
    const throws = {
      get traceparent(): string {
        throw new Error('hostile')
      }
    }
    for (const wrong of ['no headers', null, throws, { traceparent: null }, { get: () => 7 }]) {
      await collect(watched(request, { telemetry: { parent: wrong as never } }))
    }
    for (const wrong of [null, 'x', { attributes: 'x' }]) await collect(watched(request, { telemetry: wrong as never }))
  } finally {
    propagation.disable()
  }
  const parents = harness.spans().map((span) => span.parentSpanContext?.spanId)
  expect(parents).toEqual(Array.from({ length: 13 }, (_, index) => (index < 4 ? 'b7ad6b7169203331' : undefined)))
  expect(harness.spans()[0]?.spanContext().traceId).toBe(traceId)
  expect(harness.telemetry.stats().open).toBe(0)
  expect(harness.telemetry.stats().failures).toBeGreaterThan(5)
})

test('attributes of the caller are on the span, bounded, and on no metric', async () => {
  await using harness = createHarness()
  const many = Object.fromEntries(Array.from({ length: 40 }, (_, n) => [`n${n}`, n]))
  const ours = { 'millrace.cost_usd': 99, 'gen_ai.request.model': 'mine' }
  const attributes = {
    'gen_ai.conversation.id': 'c-17',
    flag: true,
    long: 'x'.repeat(5000),
    odd: { a: 1 } as never,
    ...ours,
    ...many
  }
  await collect(harness.telemetry.layer(provides())(request, { telemetry: { attributes } }))
  const told = harness.spans()[0]?.attributes
  expect(told).toMatchObject({ 'gen_ai.conversation.id': 'c-17', flag: true, n0: 0, n27: 27, long: 'x'.repeat(1024) })
  expect(told).toMatchObject({ 'gen_ai.request.model': 'gpt-5.6' })
  for (const name of ['odd', 'n28', 'millrace.cost_usd']) expect(told).not.toHaveProperty(name)
  expect(harness.telemetry.stats().failures).toBe(3)
  const metrics = await harness.metric('gen_ai.client.operation.duration')
  expect(JSON.stringify(metrics)).not.toContain('c-17')
})

test('without an SDK no call is kept, and the trace that is active goes on to the provider', async () => {
  await using telemetry = createTelemetry()
  const seen: unknown[] = []
  const provider: Provider = async function* (_request, { callId = '' }) {
    seen.push(telemetry.stats().open, telemetry.traceHeaders(callId))
    yield* answer
  }
  await collect(telemetry.layer(provider)(request, {}))
  expect(seen).toEqual([0, {}])
  propagation.setGlobalPropagator(reading)
  try {
    const parent = { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' }
    await collect(telemetry.layer(provider)(request, { telemetry: { parent } }))
    expect(seen.slice(2)).toEqual([1, parent])
  } finally {
    propagation.disable()
  }
  expect(telemetry.stats()).toEqual({ open: 0, dropped: 0, failures: 0 })
})

test('a secret in prompt, tools, extra, tenant, query, headers or error appears in no span and no metric', async () => {
  await using harness = createHarness()
  const canary = 'sk-canary-5a8b1c'
  const secretive: ChatRequest = {
    model: 'gpt-5.6',
    messages: [{ role: 'user', content: canary, name: canary }],
    tools: [{ name: canary, description: canary }],
    toolChoice: { name: canary },
    responseFormat: { type: 'json-schema', name: canary, schema: { title: canary } },
    stop: [canary],
    extra: { user: canary, [canary]: 1 }
  }
  const options = { tenant: canary, idempotencyKey: canary, callId: canary }
  const error = new MillraceError('unauthorized', `bad key ${canary}`, {
    details: { status: 401, providerCode: canary },
    context: { provider: 'openai', requestId: canary },
    cause: new Error(canary),
    providerMessage: canary
  })
  const foreign = Object.assign(new Error(canary), { name: canary, code: canary })
  const origin = `https://user:${canary}@api.example.com/${canary}?key=${canary}`
  const provider: Provider = async function* (asked, { callId = '' }) {
    const attempt = { owner: secretive, callId, attempt: 1, origin }
    channels.attemptStart.publish({ ...attempt, method: 'POST' })
    channels.attemptEnd.publish({ ...attempt, elapsedMs: 1, error: foreign })
    yield { type: 'start', provider: 'openai', model: asked.model }
    yield { type: 'note', from: 'cache', facts: { state: canary, key: canary } }
    yield { type: 'note', from: 'fallback', facts: { tried: [canary] } }
    yield { type: 'text', text: canary }
    yield { type: 'extra', name: canary, value: canary }
    throw error
  }
  await expect(collect(harness.telemetry.layer(provider)(secretive, options))).rejects.toBe(error)
  await expect(collect(harness.telemetry.layer(fails(foreign))(secretive, options))).rejects.toBe(foreign)
  expect(harness.spans()).toHaveLength(3)
  const exported = await harness.everything()
  expect(exported).toContain('api.example.com')
  expect(exported).not.toContain(canary)
  expect(harness.telemetry.stats().failures).toBe(0)
})

test('prompts and answers are on the span where they are asked for, by option or by the environment', async () => {
  const variable = 'OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT'
  const contentOf = async (options: TelemetryOptions): Promise<unknown> => {
    await using harness = createHarness(options)
    await collect(harness.telemetry.layer(provides())(request, {}))
    const attributes = harness.spans()[0]?.attributes ?? {}
    expect(await harness.metric('gen_ai.client.operation.duration')).not.toContain('Hello there')
    return [attributes['gen_ai.input.messages'], attributes['gen_ai.output.messages']]
  }
  const whole = [
    JSON.stringify([{ role: 'user', parts: [{ type: 'text', content: 'Hi' }] }]),
    JSON.stringify([{ role: 'assistant', parts: [{ type: 'text', content: 'Hello there' }], finish_reason: 'stop' }])
  ]
  const nothing = [undefined, undefined]
  expect(await contentOf({})).toEqual(nothing)
  expect(await contentOf({ content: {} })).toEqual(whole)
  expect(await contentOf({ content: { redact: (text) => text.toUpperCase() } })).toEqual([
    expect.stringContaining('HI'),
    expect.stringContaining('HELLO THERE')
  ])
  process.env[variable] = 'true'
  try {
    expect(await contentOf({})).toEqual(whole)
    expect(await contentOf({ content: false })).toEqual(nothing)
    process.env[variable] = 'event_only'
    expect(await contentOf({})).toEqual(nothing)
  } finally {
    delete process.env[variable]
  }
  expect(() => createTelemetry({ content: { maxChars: 5 } })).toThrow(/maxChars/)
})

test('an SDK whose hooks throw reaches no call: each exception is counted', async () => {
  const broken = (): never => {
    throw new Error('a hook of the SDK')
  }
  const exporter = { export: () => {}, shutdown: async () => {} }
  const processor = Object.assign(new SimpleSpanProcessor({ exporter }), { onEnd: broken })
  await using harness = createHarness({ tracerProvider: new SdkTracerProvider({ spanProcessors: [processor] }) })
  const completion = await collect(harness.telemetry.layer(provides())(request, {}))
  expect(completion.text).toBe('Hello there')
  expect(harness.telemetry.stats()).toMatchObject({ open: 0, failures: 1 })
  expect(await harness.metric('gen_ai.client.operation.duration')).toMatchObject([{ count: 1 }])
})

test('a tracer and a meter that throw everywhere reach no call', async () => {
  const hostile: unknown = new Proxy(() => {}, {
    get: (target, key) => (key === 'getTracer' || key === 'getMeter' ? () => throwing : Reflect.get(target, key))
  })
  const throwing: unknown = new Proxy(
    {},
    {
      get: (_target, key) => {
        if (typeof key === 'string' && (key.startsWith('create') || key.includes('Batch'))) return () => throwing
        throw new Error('hostile')
      }
    }
  )
  const telemetry = createTelemetry({
    tracerProvider: hostile as TracerProvider,
    meterProvider: hostile as MeterProvider
  })
  expect((await collect(telemetry.layer(provides())(request, {}))).text).toBe('Hello there')
  expect(telemetry.stats().failures).toBeGreaterThan(0)
  await telemetry.close()
})

test('a request that is no request still has its call told', async () => {
  await using harness = createHarness()
  const invalid = new MillraceError('invalid-request', 'is missing', { details: { path: 'model' } })
  for (const bad of [null, 7, { model: 5 }, {}]) {
    await collect(harness.telemetry.layer(fails(invalid))(bad as never, {})).catch(() => {})
  }
  expect(harness.spans().map((span) => span.name)).toEqual(['chat', 'chat', 'chat', 'chat'])
  expect(harness.telemetry.stats().failures).toBe(0)
})

test('close ends the spans of open calls, leaves no listener, and may be called twice', async () => {
  const harness = createHarness()
  const heard = () => Object.values(channels).filter((channel) => channel.hasSubscribers).length
  expect(heard()).toBe(6)
  await harness.telemetry.layer(goesOn)(request, {})[Symbol.asyncIterator]().next()
  await harness.telemetry.close()
  await harness.telemetry.close()
  expect(heard()).toBe(0)
  expect(harness.spans().map((span) => span.attributes['millrace.outcome'])).toEqual(['dropped'])
  expect(harness.telemetry.stats().open).toBe(0)
  expect((await collect(harness.telemetry.layer(provides())(request, {}))).text).toBe('Hello there')
})

test('two that listen on the global providers would count twice: the second is refused', async () => {
  const first = createTelemetry()
  expect(() => createTelemetry()).toThrow(/listens in this process already/)
  await using harness = createHarness()
  await first.close()
  await using again = createTelemetry()
  expect([harness, again].map((one) => ('telemetry' in one ? one.telemetry : one).stats().open)).toEqual([0, 0])
})

test('wrong options are refused with the cure', () => {
  expect(() => createTelemetry({ maxOpenCalls: 0 })).toThrow(new TypeError('maxOpenCalls must be a whole number of at least 1'))
  expect(() => createTelemetry({ maxModels: 1.5 })).toThrow(TypeError)
  expect(() => createTelemetry({ tracerProvider: {} as never })).toThrow(/must be a TracerProvider/)
  expect(() => createTelemetry({ meterProvider: {} as never })).toThrow(/must be a MeterProvider/)
})

test('a hundred thousand calls leave nothing behind', async () => {
  await using telemetry = createTelemetry()
  const watched = telemetry.layer(provides())
  const used = async (calls: number): Promise<number> => {
    for (let call = 0; call < calls; call++) await collect(watched(request, {}))
    globalThis.gc?.()
    return process.memoryUsage().heapUsed
  }
  await used(10_000)
  const before = await used(10_000)
  const after = await used(90_000)
  expect(telemetry.stats()).toEqual({ open: 0, dropped: 0, failures: 0 })
  expect(after - before).toBeLessThan(4 * 1024 * 1024)
})
