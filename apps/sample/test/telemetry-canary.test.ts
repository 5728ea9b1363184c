// Nothing secret gets out by default: each place where a secret can stand holds a word of its own, and that word is looked
// for in everything that is exported, printed, thrown or shown.
import { inspect } from 'node:util'
import { type Adapter, createAdapter } from '@millrace/adapter'
import { anthropic } from '@millrace/adapter/anthropic'
import { openai, type WireProvider } from '@millrace/adapter/openai'
import { createCache } from '@millrace/cache'
import type { CallOptions, ChatRequest } from '@millrace/core'
import { chunk, type FaultConnection, namedSse, responseHead, sse } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createHarness } from './telemetry-harness.ts'
import { jsonResponse, startCountingServer, streamHead, wantsStream, wholeStream } from './telemetry-wire.ts'

const secret = (where: string): string => `CANARY-${where}-4711`
/** The words found in a text, each once. */
const found = (text: string): string[] => Array.from(new Set(text.match(/CANARY-[\w-]+-4711/g))).toSorted()

const resources: AsyncDisposable[] = []
const use = <T extends AsyncDisposable>(resource: T): T => {
  resources.push(resource)
  return resource
}

/** What the process has written. */
let printed: unknown[] = []
const onWarning = (warning: Error): void => void printed.push(warning)
beforeEach(() => {
  printed = []
  vi.stubEnv('OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT', undefined)
  for (const name of ['debug', 'log', 'info', 'warn', 'error', 'trace', 'dir', 'table'] as const) {
    vi.spyOn(console, name).mockImplementation((...values: unknown[]) => void printed.push(...values))
  }
  for (const stream of [process.stdout, process.stderr]) {
    vi.spyOn(stream, 'write').mockImplementation((text) => {
      printed.push(String(text))
      return true
    })
  }
  process.on('warning', onWarning)
})
afterEach(async () => {
  vi.restoreAllMocks()
  vi.unstubAllEnvs()
  process.off('warning', onWarning)
  for (const resource of resources.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
})

const request: ChatRequest = {
  model: 'asked',
  messages: [
    { role: 'system', content: secret('system') },
    { role: 'user', content: secret('user') },
    {
      role: 'assistant',
      content: secret('said'),
      toolCalls: [{ id: 'call_1', name: 'look', arguments: `{"at":"${secret('call')}"}` }]
    },
    { role: 'tool', toolCallId: 'call_1', content: secret('result') },
    { role: 'user', content: [{ type: 'text', text: secret('part') }] }
  ],
  tools: [
    {
      name: 'look',
      description: secret('description'),
      parameters: { type: 'object', properties: { at: { type: 'string', description: secret('schema') } } }
    }
  ],
  stop: [secret('stop')],
  maxOutputTokens: 99,
  extra: { metadata: { user: secret('extra') } }
}

const options: CallOptions = {
  tenant: secret('tenant'),
  callId: secret('call-id'),
  idempotencyKey: secret('idempotency'),
  cache: { tags: [secret('tag')] },
  telemetry: { parent: { authorization: secret('parent') } }
}

const secretHeaders = { 'set-cookie': secret('cookie'), 'x-told': secret('header') }

interface Wire {
  readonly name: string
  provider(url: string): WireProvider
  readonly json: string
  /** Start, text, refusal and tool call as events; then the end. */
  readonly opening: string
  readonly closing: string
  readonly errorEvent: string
}

/** What a provider quotes of a call that it refuses: the prompt, and what came with it. */
const complaint = [secret('told'), secret('user'), secret('key'), secret('sent-header')].join(' ')
const overloaded = {
  type: 'overloaded_error',
  code: 503,
  message: complaint,
  param: secret('parameter'),
  inner: { trace: secret('inner') }
}

const openaiCall = {
  index: 0,
  id: 'call_9',
  type: 'function',
  function: { name: 'look', arguments: `{"at":"${secret('arguments')}"}` }
}
const said = { content: secret('answer'), refusal: secret('refusal'), tool_calls: [openaiCall] }
const openaiUsage = { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 }
const openaiWire: Wire = {
  name: 'openai',
  provider: (url) =>
    openai({ apiKey: secret('key'), baseURL: `${url}/v1?sig=${secret('query')}`, headers: { 'x-sent': secret('sent-header') } }),
  json: JSON.stringify({
    id: 'c',
    model: 'm',
    choices: [{ index: 0, message: { role: 'assistant', ...said }, finish_reason: 'tool_calls' }],
    usage: openaiUsage
  }),
  opening: sse([{ id: 'c', model: 'm', choices: [{ index: 0, delta: said }] }]),
  closing: sse([
    { id: 'c', model: 'm', choices: [{ index: 0, delta: {}, finish_reason: 'tool_calls' }] },
    { choices: [], usage: openaiUsage },
    '[DONE]'
  ]),
  errorEvent: sse([{ error: overloaded }])
}

const event = (type: string, fields: object = {}): { readonly type: string } => ({ type, ...fields })
const message = { id: 'msg', type: 'message', role: 'assistant', model: 'm' }
const blocks = [
  { type: 'thinking', thinking: secret('thought'), signature: secret('signature') },
  { type: 'text', text: secret('answer') },
  { type: 'tool_use', id: 'call_9', name: 'look', input: { at: secret('arguments') } }
]
const anthropicWire: Wire = {
  name: 'anthropic',
  provider: (url) =>
    anthropic({ apiKey: secret('key'), baseURL: `${url}?sig=${secret('query')}`, headers: { 'x-sent': secret('sent-header') } }),
  json: JSON.stringify({ ...message, content: blocks, stop_reason: 'tool_use', usage: { input_tokens: 3, output_tokens: 2 } }),
  opening: namedSse([
    event('message_start', { message: { ...message, content: [], usage: { input_tokens: 3, output_tokens: 1 } } }),
    event('content_block_start', { index: 0, content_block: { type: 'text', text: '' } }),
    event('content_block_delta', { index: 0, delta: { type: 'text_delta', text: secret('answer') } }),
    event('content_block_stop', { index: 0 }),
    event('content_block_start', { index: 1, content_block: { type: 'tool_use', id: 'call_9', name: 'look', input: {} } }),
    event('content_block_delta', {
      index: 1,
      delta: { type: 'input_json_delta', partial_json: `{"at":"${secret('arguments')}"}` }
    }),
    event('content_block_stop', { index: 1 })
  ]),
  closing: namedSse([
    event('message_delta', { delta: { stop_reason: 'tool_use' }, usage: { output_tokens: 2 } }),
    event('message_stop')
  ]),
  errorEvent: namedSse([event('error', { error: overloaded })])
}

type Script = (connection: FaultConnection, wire: Wire) => Promise<void>

const answers =
  (plain: (wire: Wire) => string, streamed: (wire: Wire) => string): Script =>
  async (connection, wire) => {
    for (;;) await connection.write((wantsStream(await connection.request()) ? streamed : plain)(wire))
  }
const json = (body: string, status = 200): string => jsonResponse(status, body, secretHeaders)
const streamOf = (...events: readonly string[]): string =>
  wholeStream(...events).replace('\r\n', `\r\nx-told: ${secret('header')}\r\n`)
/** A stream gets this, a plain call half a JSON; then the connection ends, or stays. */
const breaks =
  (end: 'end' | 'reset' | 'closed', events: (wire: Wire) => string): Script =>
  async (connection, wire) => {
    const streamed = wantsStream(await connection.request())
    const head = responseHead(200, { ...secretHeaders, 'content-type': 'application/json', 'content-length': 9999 })
    await connection.write(streamed ? streamHead + chunk(events(wire)) : head + wire.json)
    if (end === 'closed') await connection.closed
    else connection[end]()
  }

interface Row {
  readonly script: Script
  readonly call?: CallOptions
  readonly abortMs?: number
  readonly succeeds?: true
}

const statuses = [307, 400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 429, 500, 502, 503, 504, 529]
const refusal = (wire: Wire): string =>
  JSON.stringify(wire.name === 'openai' ? { error: overloaded } : { type: 'error', error: overloaded })

const rows: Readonly<Record<string, Row>> = {
  'a good answer': {
    script: answers(
      ({ json: body }) => json(body),
      (wire) => streamOf(wire.opening, wire.closing)
    ),
    succeeds: true
  },
  ...Object.fromEntries(
    statuses.map((status) => [
      `status ${status}`,
      {
        script: answers(
          (wire) => json(refusal(wire), status),
          (wire) => json(refusal(wire), status)
        )
      }
    ])
  ),
  'status 500 as prose': {
    script: answers(
      () => json(`<html>${complaint}`, 500),
      () => json(complaint, 500)
    )
  },
  'a key as the code of the error': {
    script: answers(
      () => json(JSON.stringify({ error: { code: secret('key') } }), 400),
      () => json(JSON.stringify({ error: { type: secret('sent-header') } }), 400)
    )
  },
  'an answer that is no JSON': {
    script: answers(
      ({ json: body }) => json(body.slice(1)),
      ({ json: body }) => json(`<html>${body}`)
    )
  },
  'an answer of the wrong shape': {
    script: answers(
      () => json(JSON.stringify({ a: secret('answer') })),
      () => json(JSON.stringify([secret('answer')]))
    )
  },
  'a malformed event': {
    script: answers(
      () => json(''),
      (wire) => streamOf(wire.opening, `data: {"a": ${secret('answer')}\n\n`)
    )
  },
  'an error as the first event': {
    script: answers(
      (wire) => json(refusal(wire)),
      (wire) => streamOf(wire.errorEvent)
    )
  },
  'an error as a later event': {
    script: answers(
      (wire) => json(refusal(wire)),
      (wire) => streamOf(wire.opening, wire.errorEvent)
    )
  },
  'an incomplete stream': {
    script: answers(
      () => json('{}'),
      (wire) => streamOf(wire.opening)
    )
  },
  'a reset': { script: breaks('reset', (wire) => wire.opening) },
  'an end too early': { script: breaks('end', (wire) => wire.opening) },
  'a head that is none': {
    async script(connection) {
      await connection.request()
      await connection.write(`HTTP/1.1 ${secret('status')}\r\n${secret('line')}\r\n\r\n`)
      await connection.closed
    }
  },
  'a total timeout': { script: breaks('closed', (wire) => wire.opening), call: { timeouts: { totalMs: 150 } } },
  'an abort': { script: breaks('closed', (wire) => wire.opening), abortMs: 150 }
}

/** All that a logger may come by of an error. */
function tellings(thrown: unknown): string {
  const texts: string[] = []
  for (let error = thrown, depth = 0; error !== undefined && depth < 10; depth++) {
    texts.push(shown(error))
    if (!(error instanceof Error)) break
    texts.push(String(error), error.message, error.stack ?? '', JSON.stringify(Object.entries(error)))
    error = error.cause
  }
  return texts.join('\n')
}

const inspected = (value: unknown): string => inspect(value, { depth: 10, showHidden: true })
const shown = (value: unknown): string => `${inspected(value)}\n${JSON.stringify(value)}`

const cases = [openaiWire, anthropicWire].flatMap((wire) =>
  Object.entries(rows).flatMap(([name, row]) =>
    (['complete', 'stream'] as const).map((shape) => [name, shape, wire.name, row, wire] as const)
  )
)

test.each(cases)('%s (%s, %s) leaks nothing', async (_, shape, __, row, wire) => {
  const harness = use(createHarness())
  const server = use(await startCountingServer((connection) => row.script(connection, wire)))
  const transport = use(createTransport({ retry: { baseMs: 1, maxMs: 2 }, traceHeaders: harness.telemetry.traceHeaders }))
  const cache = use(createCache({ scope: secret('scope') }))
  const adapter = use(createAdapter({ provider: wire.provider(server.url), transport, cache }))
  const controller = new AbortController()
  if (row.abortMs !== undefined) setTimeout(() => controller.abort('enough'), row.abortMs)
  const call: CallOptions = { ...options, ...row.call, signal: controller.signal }

  const texts: string[] = []
  // The second finds the answer in the cache.
  for (let times = 0; times < 2; times++) {
    const { thrown, told } = await outcomeOf(adapter, shape, call)
    texts.push(told, tellings(thrown))
    expect(thrown === undefined).toBe(row.succeeds === true)
  }
  for (const object of [adapter, transport, cache, harness.telemetry]) texts.push(shown(object), shown(object.stats()))
  await expect.poll(() => harness.objections(), { timeout: 5000 }).toEqual([])

  // It was all really sent and heard.
  const sent = JSON.stringify(server.requests)
  expect(found(sent)).toEqual(
    expect.arrayContaining(['extra', 'idempotency', 'key', 'query', 'result', 'sent-header', 'system'].map(secret))
  )
  expect(harness.calls()).toHaveLength(2)
  expect(found(await harness.everything())).toEqual([])
  expect(found(texts.join('\n'))).toEqual([])
  expect(found(printed.map((each) => (typeof each === 'string' ? each : shown(each))).join('\n'))).toEqual([])
})

/** What the caller caught, and how the stream looks before, within and behind its life. */
async function outcomeOf(adapter: Adapter, shape: string, call: CallOptions): Promise<{ thrown: unknown; told: string }> {
  const told: string[] = []
  try {
    if (shape === 'complete') await adapter.complete(request, call)
    else {
      const stream = adapter.stream(request, call)
      told.push(inspected(stream))
      try {
        for await (const { type } of stream) if (type === 'text') told.push(inspected(stream))
      } finally {
        told.push(inspected(stream))
      }
    }
    return { thrown: undefined, told: told.join('\n') }
  } catch (thrown) {
    return { thrown, told: told.join('\n') }
  }
}

test('a stream as JSON does not hold its answer', async () => {
  for (const wire of [openaiWire, anthropicWire]) {
    const server = use(await startCountingServer((connection) => (rows['a good answer'] as Row).script(connection, wire)))
    const adapter = use(createAdapter({ provider: wire.provider(server.url) }))
    const stream = adapter.stream(request)
    await stream.completion()
    expect(found(JSON.stringify(stream))).toEqual([])
  }
})

test('a provider does not show its key, its headers, nor the query of its address', () => {
  for (const { provider } of [openaiWire, anthropicWire]) expect(found(shown(provider('http://127.0.0.1:1')))).toEqual([])
})

test('a server that cannot be reached leaks nothing', async () => {
  const harness = use(createHarness())
  const server = await startCountingServer(() => {})
  await server.close()
  for (const { provider } of [openaiWire, anthropicWire]) {
    const adapter = use(createAdapter({ provider: provider(server.url), transport: { retry: { baseMs: 1 } } }))
    const { thrown } = await outcomeOf(adapter, 'complete', options)
    expect(found(tellings(thrown))).toEqual([])
  }
  expect(found(await harness.everything())).toEqual([])
})

test.each<[string, object]>([
  ['a role', { messages: [{ role: secret('role'), content: 'x' }] }],
  ['a message', { messages: [secret('message')] }],
  ['a content', { messages: [{ role: 'user', content: { text: secret('content') } }] }],
  ['a part', { messages: [{ role: 'user', content: [{ type: secret('part'), text: 'x' }] }] }],
  ['a tool', { tools: [{ name: secret('tool'), parameters: secret('parameters') }] }],
  ['a number', { maxOutputTokens: secret('number') }],
  ['a field of ours in extra', { extra: { messages: secret('extra') } }],
  ['several choices', { extra: { n: 2, user: secret('extra') } }]
])('a request that is wrong by %s is refused without quoting it', async (_, wrong) => {
  const harness = use(createHarness())
  const server = use(await startCountingServer(() => {}))
  for (const { provider } of [openaiWire, anthropicWire]) {
    const adapter = use(createAdapter({ provider: provider(server.url), timeouts: { totalMs: 500 } }))
    const { thrown } = await outcomeOf(adapter, 'complete', {})
    const { thrown: refused } = await outcomeOf(
      { ...adapter, complete: () => adapter.complete({ ...request, ...wrong } as ChatRequest) },
      'complete',
      {}
    )
    expect(thrown).toBeInstanceOf(Error)
    expect(refused).toBeInstanceOf(Error)
    expect(found(tellings(refused))).toEqual([])
  }
  expect(found(await harness.everything())).toEqual([])
})

test('what is asked for is found: content that is switched on is on the span', async () => {
  const harness = use(createHarness({ content: {} }))
  const server = use(await startCountingServer((connection) => (rows['a good answer'] as Row).script(connection, openaiWire)))
  const adapter = use(createAdapter({ provider: openaiWire.provider(server.url) }))
  await adapter.complete(request, options)
  await expect.poll(() => harness.objections()).toEqual([])
  expect(found(await harness.everything())).toEqual(expect.arrayContaining(['answer', 'user'].map(secret)))
  console.log(secret('printed'))
  expect(found(printed.join())).toEqual([secret('printed')])
})
