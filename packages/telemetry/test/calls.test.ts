import { type ChatRequest, type Chunk, channels, collect, MillraceError, type Provider, pipe, sleep, watch } from '@millrace/core'
import { context, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import { TracerProvider } from '@opentelemetry/sdk-trace'
import { expect, test } from 'vitest'
import { answer, createHarness, fails, goesOn, provides, usage } from './harness.ts'

const request: ChatRequest = {
  model: 'gpt-5.6',
  messages: [{ role: 'user', content: 'Hi' }],
  maxOutputTokens: 50,
  temperature: 0.5,
  topP: 0.9,
  seed: 7,
  responseFormat: { type: 'json' }
}

test('a finished call is one client span with model, provider, usage and times', async () => {
  await using harness = createHarness()
  await collect(harness.telemetry.layer(provides())(request, {}))
  const [span, ...rest] = harness.spans()
  expect(rest).toEqual([])
  expect(span?.name).toBe('chat gpt-5.6')
  expect(span?.kind).toBe(SpanKind.CLIENT)
  expect(span?.ended).toBe(true)
  expect(span?.status.code).toBe(SpanStatusCode.UNSET)
  expect(span?.attributes).toEqual({
    'gen_ai.operation.name': 'chat',
    'gen_ai.provider.name': 'openai',
    'gen_ai.request.model': 'gpt-5.6',
    'gen_ai.request.stream': true,
    'gen_ai.request.max_tokens': 50,
    'gen_ai.request.temperature': 0.5,
    'gen_ai.request.top_p': 0.9,
    'gen_ai.request.seed': 7,
    'gen_ai.output.type': 'json',
    'gen_ai.response.id': 'chatcmpl-1',
    'gen_ai.response.model': 'gpt-5.6-2026-10-01',
    'gen_ai.response.finish_reasons': ['stop'],
    'gen_ai.response.time_to_first_chunk': expect.any(Number),
    'gen_ai.usage.input_tokens': 135,
    'gen_ai.usage.output_tokens': 48,
    'gen_ai.usage.cache_read.input_tokens': 30,
    'gen_ai.usage.cache_creation.input_tokens': 5,
    'gen_ai.usage.reasoning.output_tokens': 8,
    'millrace.usage.billed': true,
    'millrace.outcome': 'success',
    'millrace.contents': 2
  })
})

test('a call that fails ends its span with the code of the error and no message', async () => {
  await using harness = createHarness()
  const error = new MillraceError('timeout', 'the idle clock fired', {
    details: { clock: 'idle', limitMs: 5, elapsedMs: 6 },
    context: { provider: 'anthropic' }
  })
  await expect(collect(harness.telemetry.layer(fails(error))(request, {}))).rejects.toBe(error)
  const [span, ...rest] = harness.spans()
  expect(rest).toEqual([])
  expect(span?.status).toEqual({ code: SpanStatusCode.ERROR })
  expect(span?.events).toEqual([])
  expect(span?.attributes).toMatchObject({
    'error.type': 'timeout',
    'millrace.timeout.clock': 'idle',
    'millrace.outcome': 'error',
    'gen_ai.provider.name': 'anthropic'
  })
})

test('an error of another kind is _OTHER', async () => {
  await using harness = createHarness()
  await expect(collect(harness.telemetry.layer(fails(new RangeError('x')))(request, {}))).rejects.toThrow(RangeError)
  expect(harness.spans()[0]?.attributes).toMatchObject({ 'error.type': '_OTHER', 'gen_ai.provider.name': '_OTHER' })
})

test('an aborted call ends its span once, as aborted and not as an error', async () => {
  await using harness = createHarness()
  const controller = new AbortController()
  const reason = new Error('stop')
  const reading = collect(harness.telemetry.layer(goesOn)(request, { signal: controller.signal }))
  await sleep(10)
  controller.abort(reason)
  await expect(reading).rejects.toBe(reason)
  const [span, ...rest] = harness.spans()
  expect(rest).toEqual([])
  expect(span?.attributes).toMatchObject({ 'millrace.outcome': 'aborted' })
  expect(span?.attributes).not.toHaveProperty('error.type')
  expect(span?.status.code).toBe(SpanStatusCode.UNSET)
})

test('a call aborted before it starts has a span too', async () => {
  await using harness = createHarness()
  const reason = new Error('stop')
  const signal = AbortSignal.abort(reason)
  await expect(collect(harness.telemetry.layer(provides())(request, { signal }))).rejects.toBe(reason)
  expect(harness.spans().map((span) => span.attributes['millrace.outcome'])).toEqual(['aborted'])
})

test('a stream the reader leaves ends its span once, as abandoned', async () => {
  await using harness = createHarness()
  for await (const chunk of harness.telemetry.layer(goesOn)(request, {})) if (chunk.type === 'text') break
  expect(harness.spans().map((span) => span.attributes['millrace.outcome'])).toEqual(['abandoned'])
  expect(harness.telemetry.stats().open).toBe(0)
})

test('what the layers noted is on the span: cache state and numbers only', async () => {
  await using harness = createHarness()
  const noted = provides([
    { type: 'start', provider: 'openai', model: 'gpt-5.6' },
    { type: 'note', from: 'cache', facts: { state: 'hit', ageMs: 1200, key: 'secret' } },
    { type: 'note', from: 'retry', facts: { attempts: 3 } },
    { type: 'note', from: 'fallback', facts: { tried: ['one', 'two'] } },
    { type: 'note', from: 'limits', facts: { waitedMs: 15 } },
    { type: 'note', from: 'tokens', facts: { dropped: 2, saved: 300 } },
    { type: 'usage', usage: { ...usage, billed: false } },
    { type: 'finish', reason: 'stop' }
  ])
  await collect(harness.telemetry.layer(noted)(request, { stream: false }))
  expect(harness.spans()[0]?.attributes).toMatchObject({
    'millrace.cache.state': 'hit',
    'millrace.cache.age_ms': 1200,
    'millrace.attempts': 3,
    'millrace.fallback.tried': 2,
    'millrace.limits.waited_ms': 15,
    'millrace.tokens.dropped': 2,
    'millrace.tokens.saved': 300,
    'millrace.usage.billed': false
  })
  expect(harness.spans()[0]?.attributes).not.toHaveProperty('gen_ai.request.stream')
  expect(await harness.everything()).not.toContain('secret')
})

test('a call watched twice, by two owners or by one, is one span that ends with the owner who opened it', async () => {
  await using harness = createHarness()
  const { layer } = harness.telemetry
  for (const doubly of [pipe(provides(), watch({}), layer), pipe(provides(), layer, layer)]) {
    await collect(doubly(request, { callId: 'twice' }))
  }
  expect(harness.spans()).toHaveLength(2)
  expect(harness.telemetry.stats()).toEqual({ open: 0, dropped: 0, failures: 0 })
})

test('calls under one callId are told apart, whichever began or was forgotten first', async () => {
  await using harness = createHarness()
  const { layer } = harness.telemetry
  await layer(goesOn)(request, { callId: 'one' })[Symbol.asyncIterator]().next()
  for (let made = 0; made < 20; made++) await collect(layer(provides())(request, { callId: 'one' }))
  channels.attemptStart.publish({ owner: {}, callId: 'two', attempt: 1, method: 'POST', origin: 'https://api.example.com' })
  await collect(layer(provides())(request, { callId: 'two' }))
  expect(harness.spans().map((span) => span.attributes['millrace.outcome'])).toEqual(Array.from({ length: 21 }, () => 'success'))
  expect(await harness.metric('gen_ai.client.operation.duration')).toMatchObject([{ count: 21 }])
  expect(harness.telemetry.stats()).toMatchObject({ open: 2, dropped: 0 })
})

test('an inner layer that is left in the middle does not keep the span of the call open', async () => {
  await using harness = createHarness()
  const { layer } = harness.telemetry
  const inner = layer(goesOn)
  const leaky: Provider = async function* (asked, options) {
    await inner(asked, options)[Symbol.asyncIterator]().next()
    yield* answer
  }
  await collect(layer(leaky)(request, {}))
  expect(harness.spans().map((span) => span.attributes['millrace.outcome'])).toEqual(['success'])
  expect(harness.telemetry.stats().open).toBe(0)
})

test('an inner call of another owner with the same callId does not end the outer span', async () => {
  await using harness = createHarness()
  const inner = pipe(fails(new Error('first provider')), watch({}))
  const fallback: Provider = async function* (asked, options) {
    await collect(inner(asked, options)).catch(() => {})
    yield* answer
  }
  await collect(harness.telemetry.layer(fallback)(request, {}))
  expect(harness.spans().map((span) => span.attributes['millrace.outcome'])).toEqual(['success'])
})

test('attempts are children of their call by callId, outside any ambient context', async () => {
  await using harness = createHarness()
  const owner = {}
  const origin = 'https://api.example.com'
  const tried: Provider = async function* (_request, { callId = '' }) {
    for (const attempt of [1, 2]) {
      channels.attemptStart.publish({ owner, callId, attempt, method: 'POST', origin })
      await sleep(1)
      channels.attemptEnd.publish({ owner, callId, attempt, origin, elapsedMs: 1, status: attempt === 1 ? 503 : 200 })
    }
    yield* answer
  }
  await collect(harness.telemetry.layer(tried)(request, {}))
  const [first, second, call] = harness.spans()
  expect(call?.name).toBe('chat gpt-5.6')
  expect(call?.attributes).toMatchObject({
    'server.address': 'api.example.com',
    'server.port': 443,
    'millrace.attempts': 2
  })
  expect(call?.parentSpanContext).toBeUndefined()
  for (const span of [first, second]) {
    expect(span?.name).toBe('POST')
    expect(span?.parentSpanContext?.spanId).toBe(call?.spanContext().spanId)
    expect(span?.attributes).toMatchObject({ 'http.request.method': 'POST', 'server.address': 'api.example.com' })
  }
  expect(first?.attributes).toMatchObject({ 'http.response.status_code': 503, 'error.type': '503' })
  expect(first?.status.code).toBe(SpanStatusCode.ERROR)
  expect(second?.attributes).toMatchObject({ 'http.response.status_code': 200, 'http.request.resend_count': 1 })
  expect(second?.status.code).toBe(SpanStatusCode.UNSET)
})

test('an attempt still open at the end of its call ends with it', async () => {
  await using harness = createHarness()
  const owner = {}
  const lost: Provider = async function* (_request, { callId = '' }) {
    channels.attemptStart.publish({ owner, callId, attempt: 1, method: 'POST', origin: 'http://127.0.0.1:8080' })
    yield* answer
  }
  await collect(harness.telemetry.layer(lost)(request, { callId: 'hedged' }))
  channels.attemptEnd.publish({ owner, callId: 'hedged', attempt: 1, origin: 'http://127.0.0.1:8080', elapsedMs: 1 })
  expect(harness.spans().map((span) => span.name)).toEqual(['POST', 'chat gpt-5.6'])
  expect(harness.spans()[0]?.attributes['server.port']).toBe(8080)
})

test('a request that belongs to no watched call has a span of its own', async () => {
  await using harness = createHarness()
  const message = { owner: {}, callId: 'sdk', attempt: 1, origin: 'https://api.example.com' }
  const error = new MillraceError('network', 'refused', { details: { phase: 'connect' } })
  channels.attemptStart.publish({ ...message, method: 'POST' })
  channels.attemptEnd.publish({ ...message, elapsedMs: 1, error })
  expect(harness.spans().map((span) => [span.name, span.attributes['error.type']])).toEqual([['POST', 'network']])
  expect(harness.telemetry.stats().open).toBe(0)
})

test('a call is a child of the span that is active where its stream is opened', async () => {
  await using harness = createHarness()
  const { AsyncLocalStorageContextManager } = await contextManager()
  context.setGlobalContextManager(new AsyncLocalStorageContextManager())
  try {
    const parent = harness.tracerProvider.getTracer('test').startSpan('incoming')
    await context.with(trace.setSpan(context.active(), parent), () => collect(harness.telemetry.layer(provides())(request, {})))
    parent.end()
    expect(harness.spans()[0]?.parentSpanContext?.spanId).toBe(parent.spanContext().spanId)
  } finally {
    context.disable()
  }
})

test('calls that never end are dropped at the bound, ended and counted', async () => {
  await using harness = createHarness({ maxOpenCalls: 10 })
  const watched = harness.telemetry.layer(goesOn)
  for (let index = 0; index < 25; index++) await watched(request, {})[Symbol.asyncIterator]().next()
  expect(harness.telemetry.stats()).toEqual({ open: 10, dropped: 15, failures: 0 })
  expect(harness.spans()).toHaveLength(15)
  expect(harness.spans().every((span) => span.attributes['millrace.outcome'] === 'dropped')).toBe(true)
})

test('beyond the bound only the spans are given up: every call is measured, and a late attempt costs no other call its span', async () => {
  await using harness = createHarness({ maxOpenCalls: 2 })
  const gate = Promise.withResolvers<void>()
  const waits: Provider = async function* (_request, { callId = '' }) {
    await gate.promise
    const attempt = { owner: {}, callId, attempt: 2, origin: 'https://api.example.com' }
    channels.attemptStart.publish({ ...attempt, method: 'POST' })
    channels.attemptEnd.publish({ ...attempt, elapsedMs: 1, status: 200 })
    yield* answer
  }
  const calls = Array.from({ length: 10 }, () => collect(harness.telemetry.layer(waits)(request, {})))
  gate.resolve()
  await Promise.all(calls)
  expect(await harness.metric('gen_ai.client.operation.duration')).toMatchObject([{ count: 10 }])
  const outcomes = harness.spans().flatMap((span) => span.attributes['millrace.outcome'] ?? [])
  expect(outcomes.filter((outcome) => outcome === 'dropped')).toHaveLength(8)
  expect(outcomes.filter((outcome) => outcome === 'success')).toHaveLength(2)
  expect(harness.telemetry.stats()).toEqual({ open: 0, dropped: 8, failures: 0 })
})

test('a processor that throws at the end of one span keeps no other from ending', async () => {
  const ended: string[] = []
  const processor = {
    onStart() {},
    onEnd(span: { readonly name: string }) {
      ended.push(span.name)
      if (span.name === 'POST') throw new Error('a hook of the SDK')
    },
    forceFlush: async () => {},
    shutdown: async () => {}
  }
  await using harness = createHarness({ tracerProvider: new TracerProvider({ spanProcessors: [processor] }) })
  const lost: Provider = async function* (_request, { callId = '' }) {
    for (const attempt of [1, 2]) {
      channels.attemptStart.publish({ owner: {}, callId, attempt, method: 'POST', origin: 'http://127.0.0.1:8080' })
    }
    yield* answer
  }
  await collect(harness.telemetry.layer(lost)(request, {}))
  expect(ended).toEqual(['POST', 'POST', 'chat gpt-5.6'])
  expect(harness.telemetry.stats()).toEqual({ open: 0, dropped: 0, failures: 2 })
})

test('a hit has no usage that was billed, and what it saved under names of our own', async () => {
  await using harness = createHarness()
  const hit = answer.map((chunk) => (chunk.type === 'usage' ? { ...chunk, usage: { ...usage, billed: false } } : chunk))
  await collect(watch({}, { price: () => 0.5 })(provides(hit))(request, {}))
  const attributes = harness.spans()[0]?.attributes ?? {}
  expect(attributes).toMatchObject({
    'millrace.usage.billed': false,
    'millrace.usage.saved_input_tokens': 135,
    'millrace.usage.saved_output_tokens': 48,
    'millrace.cost_saved_usd': 0.5
  })
  for (const name of Object.keys(attributes)) expect(name).not.toMatch(/^gen_ai\.usage|millrace\.cost_usd/)
})

test('attempts of two calls under one callId stay with their own, where the request tells its call', async () => {
  await using harness = createHarness()
  const { layer } = harness.telemetry
  const gate = Promise.withResolvers<void>()
  const requests = (model: string, status: number): Provider =>
    async function* (_request, { callId = '', tally: call }) {
      const attempt = { owner: {}, callId, call, attempt: 1, origin: `https://${model}.example.com` }
      channels.attemptStart.publish({ ...attempt, method: 'POST' })
      await gate.promise
      channels.attemptEnd.publish({ ...attempt, elapsedMs: 1, status })
      yield* answer
    }
  const calls = [200, 500].map((status, index) => {
    const model = `m${index}`
    return collect(layer(requests(model, status))({ ...request, model }, { callId: 'one' }))
  })
  gate.resolve()
  await Promise.all(calls)
  const spans = harness.spans()
  for (const [model, status] of [
    ['m0', 200],
    ['m1', 500]
  ] as const) {
    const call = spans.find(({ name }) => name === `chat ${model}`)
    const attempt = spans.find(({ parentSpanContext }) => parentSpanContext?.spanId === call?.spanContext().spanId)
    expect(attempt?.attributes).toMatchObject({ 'server.address': `${model}.example.com`, 'http.response.status_code': status })
  }
})

test('a span ends whatever names the provider and the error give', async () => {
  await using harness = createHarness()
  const error = new MillraceError('network', 'x', { details: { phase: 'body' }, context: { provider: { a: 1 } as never } })
  await collect(harness.telemetry.layer(fails(error))(request, {})).catch(() => {})
  await collect(
    harness.telemetry.layer(provides([{ type: 'start', provider: 7, model: null } as never, ...answer.slice(1)]))(request, {})
  )
  expect(harness.spans().map((span) => span.attributes['gen_ai.provider.name'])).toEqual(['_OTHER', '_OTHER'])
  expect(await harness.metric('gen_ai.client.operation.duration')).toHaveLength(2)
  expect(harness.telemetry.stats()).toEqual({ open: 0, dropped: 0, failures: 0 })
})

test('a note that is no count spoils no sum, and money of tries that broke off is told', async () => {
  await using harness = createHarness()
  const noted = (facts: Record<string, number>): Provider =>
    provides([
      ...answer.slice(0, 1),
      { type: 'note', from: 'tokens', facts },
      { type: 'note', from: 'limits', facts: { waitedMs: -1 } },
      ...answer.slice(1)
    ])
  for (const saved of [Number.POSITIVE_INFINITY, -5, 7]) await collect(harness.telemetry.layer(noted({ saved }))(request, {}))
  expect(await harness.metric('millrace.tokens.saved')).toMatchObject([{ value: 7 }])
  expect(await harness.metric('millrace.limits.wait')).toEqual([])

  const inner = watch({}, { price: () => 0.5 })(fails(new Error('broke off'), answer.slice(0, 4)))
  const twice: Provider = async function* (...of) {
    for (let tries = 0; tries < 2; tries++) await collect(inner(...of)).catch(() => {})
    yield* [answer[0], answer[1], answer[4]] as Chunk[]
  }
  await collect(harness.telemetry.layer(twice)(request, {}))
  expect(await harness.metric('millrace.cost.spent')).toMatchObject([{ value: 1 }])
})

test('halves of characters are mended, so that no two series look the same', async () => {
  await using harness = createHarness()
  for (const model of ['m-\ud800', 'm-\udbff', `${'a'.repeat(127)}😀`, `${'a'.repeat(127)}𝒳`]) {
    await collect(harness.telemetry.layer(provides())({ ...request, model }, {}))
  }
  const models = (await harness.metric('gen_ai.client.operation.duration')).map(
    (point) => point.attributes['gen_ai.request.model']
  )
  expect(models).toEqual(['m-\ufffd', `${'a'.repeat(127)}\ufffd`])
})

/** A context manager over AsyncLocalStorage, as every OpenTelemetry SDK for Node registers one. */
async function contextManager() {
  const { AsyncLocalStorage } = await import('node:async_hooks')
  const { ROOT_CONTEXT } = await import('@opentelemetry/api')
  type Context = typeof ROOT_CONTEXT
  class AsyncLocalStorageContextManager {
    readonly #storage = new AsyncLocalStorage<Context>()
    active(): Context {
      return this.#storage.getStore() ?? ROOT_CONTEXT
    }
    with<A extends unknown[], F extends (...parts: A) => ReturnType<F>>(
      active: Context,
      work: F,
      self?: ThisParameterType<F>,
      ...parts: A
    ): ReturnType<F> {
      return this.#storage.run(active, () => work.call(self as ThisParameterType<F>, ...parts))
    }
    bind<T>(_context: Context, target: T): T {
      return target
    }
    enable(): this {
      return this
    }
    disable(): this {
      this.#storage.disable()
      return this
    }
  }
  return { AsyncLocalStorageContextManager }
}
